"""Who belongs to this server: its engines and ingresses as Ray Serve's controller knows them, and whether it drains."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.schema import ReplicaDetails, ReplicaState

from deployments.health import Member, Members, State

FRESH_S = 1.0
"""However often somebody asks for the health, the controller is asked once in so long."""

ANSWER_S = 1.0

_DRAINING = b"starcoder/draining"

_STATES: dict[ReplicaState, State] = {
    ReplicaState.STARTING: "starting",
    ReplicaState.UPDATING: "starting",
    ReplicaState.RECOVERING: "ready",
    ReplicaState.RUNNING: "ready",
    ReplicaState.PENDING_MIGRATION: "draining",
    ReplicaState.STOPPING: "stopping",
}

logger = logging.getLogger(__name__)


def say_draining() -> None:
    """Whoever stops the server says so to its ingresses. Blocks for milliseconds."""
    _internal_kv_put(_DRAINING, b"1", overwrite=True)


def say_serving() -> None:
    _internal_kv_del(_DRAINING)


def _is_draining() -> bool:
    return _internal_kv_get(_DRAINING) is not None


class Roster:
    """own: the replica that asks. Where the controller does not answer, what it said last is what is known."""

    def __init__(self, application: str, engine: str, ingress: str, own: str) -> None:
        self._application = application
        self._engine = engine
        self._ingress = ingress
        self._own = own
        self._controller: Any = None
        self._known: Members | None = None
        self._asked_at = -FRESH_S
        self._asking = asyncio.Lock()

    async def members(self) -> Members | None:
        """None before the controller has answered for the first time. Raises nothing."""
        async with self._asking:
            if time.monotonic() - self._asked_at >= FRESH_S:
                try:
                    async with asyncio.timeout(ANSWER_S):
                        self._known = await self._ask()
                except Exception as error:  # whatever it is, the health of what is known can be told
                    logger.debug("Serve's controller does not say who is there: %s", error)
                    self._controller = None
                self._asked_at = time.monotonic()
            return self._known

    async def _ask(self) -> Members:
        if self._controller is None:
            self._controller = await asyncio.to_thread(ray.get_actor, SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
        # Serve's public status has their number in each state, and not which they are.
        details = self._controller.get_deployment_details.remote
        engines, ingresses, draining = await asyncio.gather(
            details(self._application, self._engine),
            details(self._application, self._ingress),
            asyncio.to_thread(_is_draining),
        )
        found = members(ingresses.replicas)
        own = next((member.state for member in found if member.id == self._own), "ready")
        return Members(
            engines=members(engines.replicas),
            ingresses=found,
            draining=draining or own in ("draining", "stopping"),
        )


def members(replicas: Iterable[ReplicaDetails]) -> list[Member]:
    """The oldest first; those that have stopped are none."""
    found = [
        Member(id=replica.replica_id, state=_STATES[replica.state], since=replica.start_time_s)
        for replica in replicas
        if replica.state in _STATES
    ]
    return sorted(found, key=lambda member: member.since)
