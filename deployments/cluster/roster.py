"""Who belongs to this server: its engines and ingresses as Ray Serve's controller knows them, and whether it drains."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.schema import ReplicaDetails, ReplicaState

from deployments.health import Member, Members, State
from deployments.http.shared_answer import SharedAnswer

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


ResultT = TypeVar("ResultT")


def say_draining(seconds: float) -> None:
    """Whoever stops the server says so to its ingresses, and that it takes so long at most. Blocks for milliseconds.

    It may be killed meanwhile, and the cluster serve on.
    """
    _internal_kv_put(_DRAINING, b"%f" % (time.time() + seconds), overwrite=True)


def say_serving() -> None:
    """It drains no longer: it has, or begins."""
    _internal_kv_del(_DRAINING)


def _is_draining() -> bool:
    until = _internal_kv_get(_DRAINING)
    return until is not None and time.time() < float(until)


class Roster:
    """own: the replica that asks. Where the controller does not answer, what it said last is what is known."""

    def __init__(self, application: str, engine: str, ingress: str, own: str) -> None:
        self._application = application
        self._engine = engine
        self._ingress = ingress
        self._own = own
        self._controller: Any = None
        self._known: Members | None = None
        # While Ray's head is away a call of it holds its thread for a minute: not one of those that requests need.
        self._thread = ThreadPoolExecutor(1, "roster")
        self._members = SharedAnswer(self._asked_members, FRESH_S)

    async def members(self) -> Members | None:
        """None before the controller has answered for the first time. Takes `ANSWER_S` at most. Raises nothing."""
        return await self._members.get()

    async def _asked_members(self) -> Members | None:
        try:
            async with asyncio.timeout(ANSWER_S):
                self._known = await self._ask()
        except Exception as error:  # whatever it is, the health of what is known can be told
            logger.debug("Serve's controller does not say who is there: %s", error)
            self._controller = None
        return self._known

    async def _ask(self) -> Members:
        if self._controller is None:
            self._controller = await self._blocking(lambda: ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE))
        # Serve's public status has their number in each state, and not which they are.
        details = self._controller.get_deployment_details.remote
        engines, ingresses, draining = await asyncio.gather(
            details(self._application, self._engine),
            details(self._application, self._ingress),
            self._blocking(_is_draining),
        )
        found = members(ingresses.replicas)
        own = next((member.state for member in found if member.id == self._own), "ready")
        return Members(
            engines=members(engines.replicas),
            ingresses=found,
            draining=draining or own in ("draining", "stopping"),
        )

    def _blocking(self, work: Callable[[], ResultT]) -> asyncio.Future[ResultT]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)


def members(replicas: Iterable[ReplicaDetails]) -> list[Member]:
    """The oldest first; those that have stopped are none."""
    found = [
        Member(id=replica.replica_id, state=_STATES[replica.state], since=replica.start_time_s)
        for replica in replicas
        if replica.state in _STATES
    ]
    return sorted(found, key=lambda member: member.since)
