"""The shared book as a real actor of a real, small Ray cluster."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import ray

from deployments.cluster.counter_actor import NAMESPACE, ActorBook
from deployments.command.ray_servers import start_node
from deployments.errors import MeteringUnavailableError, QuotaError, RateLimitedError
from deployments.teams import shared_counters
from deployments.teams.counting import Counters
from deployments.teams.shared_counters import SharedCounters
from tests.support.asks import account, ask, hard
from tests.support.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def small_cluster() -> Iterator[None]:
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    start_node(lambda: ray.init(address="local", num_cpus=1, object_store_memory=80 << 20, **options))
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that does ten other things the actor is slow, not away."""
    monkeypatch.setattr(shared_counters, "PATIENCE_S", PATIENCE_S)


@asynccontextmanager
async def ingresses(name: str, number: int = 2) -> AsyncIterator[list[SharedCounters]]:
    counters = [SharedCounters(ActorBook(name), number) for _ in range(number)]
    try:
        # A machine that starts Ray may be busy.
        for each in counters:
            await each.reserve(ask(account("key:first")))
            await eventually(lambda each=each: not each.is_away, period_s=0.02)
        yield counters
    finally:
        await asyncio.gather(*(each.close() for each in counters))


async def passes(counters: Counters, requests: int) -> int:
    team = account(budget=hard(70))
    answers = await asyncio.gather(
        *(counters.reserve(ask(team, cost=7)) for _ in range(requests)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(answer, QuotaError | MeteringUnavailableError) for answer in refused), refused
    return requests - len(refused)


async def test_of_200_at_once_as_many_pass_as_the_budget_has_worst_cases() -> None:
    async with ingresses(uuid.uuid4().hex) as (one, other):
        passed = sum(await asyncio.gather(passes(one, 100), passes(other, 100)))
        assert passed == 10


@pytest.mark.parametrize("ray_restarts_it", [True, False])
async def test_an_actor_that_is_killed_comes_back_and_hears_what_is_reserved(ray_restarts_it: bool) -> None:
    name, team = uuid.uuid4().hex, account(parallel=2)
    async with ingresses(name) as counters:
        held = [(each, ask(team)) for each in counters]
        for each, asked in held:
            await each.reserve(asked)
        joins = [each.joins for each in counters]
        ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=not ray_restarts_it)
        await notices(counters[0], joins[0])
        with pytest.raises(MeteringUnavailableError, match="being counted again"):
            await counters[0].reserve(ask(account(budget=hard(70))))
        await notices(counters[1], joins[1])
        for each in counters:
            with pytest.raises(RateLimitedError):
                await each.reserve(ask(team))
        for each, asked in held:
            each.settle(asked.id, 1, 1)
        for each in counters:
            again = ask(team)
            await each.reserve(again)
            each.settle(again.id, 1, 1)


async def notices(counters: SharedCounters, joins: int) -> None:
    """It has met the actor's death, and joined the one that came after."""
    while counters.joins == joins or counters.is_away:
        asked = ask(account("key:other"))
        await counters.reserve(asked)
        counters.settle(asked.id, 0, 0)
        await asyncio.sleep(0.02)


async def test_with_its_last_caller_the_actor_ends() -> None:
    name = uuid.uuid4().hex
    async with ingresses(name, 1):
        assert is_there(name)
    await eventually(lambda: not is_there(name), "the actor is still there", period_s=0.05)


def is_there(name: str) -> bool:
    try:
        ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return False
    return True
