"""The shared book of counters as a Ray actor: one in a cluster, restarted by Ray wherever there is room.

Serve's own actors of a deployment (`DeploymentActorConfig`) are not used: they are looked at every 10 s, so that a dead
one may be away for as long, and in a rolling update old and new replicas have one each: all would be counted twice.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, RayError

from deployments.errors import ServeError
from deployments.teams.book import Settlement
from deployments.teams.counting import Ask, BudgetUse, Grant
from deployments.teams.shared_book import News, SharedBook, State
from deployments.teams.shared_counters import BookAwayError
from deployments.teams.tally import Now
from monitoring.version import package_version

ACTOR_NAME = f"starcoder-counters-{package_version()}"
"""In a rolling update to another version each counts by itself: they may not understand one another."""

NAMESPACE = "starcoder"

T = TypeVar("T")


class CounterActor:
    """A `SharedBook` behind Ray: one call at a time, in the order in which each caller makes them.

    succeeds: whoever makes it knew one before.
    """

    def __init__(self, succeeds: bool = False) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray warns of what it calls there itself
            restarted = ray.get_runtime_context().was_current_actor_reconstructed
        self._book = SharedBook(Now.read(), succeeds or restarted)

    def reserve(self, name: str, ask: Ask, settled: list[Settlement]) -> Grant | ServeError | None:
        return self._book.reserve(name, ask, settled, Now.read())

    def tell(self, name: str, news: News) -> bool:
        return self._book.tell(name, news, Now.read())

    def join(self, name: str, state: State) -> None:
        self._book.join(name, state, Now.read())

    def leave(self, name: str, settled: list[Settlement]) -> None:
        """Ends this actor with its last caller: nobody else would."""
        self._book.leave(name, settled, Now.read())
        if self._book.is_deserted:
            ray.actor.exit_actor()

    def budgets(self) -> list[BudgetUse]:
        return self._book.budgets(Now.read())


class ActorBook:
    """`deployments.teams.shared_counters.RemoteBook` over the actor, which is made where there is none."""

    def __init__(self, actor_name: str = ACTOR_NAME) -> None:
        self._actor_name = actor_name
        self._actor: Any = None
        self._had_one = False

    async def reserve(self, name: str, ask: Ask, settled: list[Settlement]) -> Grant | ServeError | None:
        return await self._call(lambda actor: actor.reserve.remote(name, ask, settled))

    async def tell(self, name: str, news: News) -> bool:
        return await self._call(lambda actor: actor.tell.remote(name, news))

    async def join(self, name: str, state: State) -> None:
        return await self._call(lambda actor: actor.join.remote(name, state))

    async def leave(self, name: str, settled: list[Settlement]) -> None:
        return await self._call(lambda actor: actor.leave.remote(name, settled))

    async def budgets(self) -> list[BudgetUse]:
        return await self._call(lambda actor: actor.budgets.remote())

    async def _call(self, call: Callable[[Any], Awaitable[T]]) -> T:
        try:
            if self._actor is None:
                self._actor = await asyncio.to_thread(self._found)
                self._had_one = True
            return await call(self._actor)
        except ActorDiedError as error:
            self._actor = None
            raise BookAwayError from error
        except (RayError, ValueError) as error:
            raise BookAwayError from error

    def _found(self) -> Any:
        options = {"name": self._actor_name, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
        return ray.remote(CounterActor).options(**options, num_cpus=0, max_restarts=-1).remote(self._had_one)
