"""The shared book behind Ray: what it is asked, and what becomes of callers whose actor has died.

On a real cluster: tests/e2e/test_counters.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from deployments.cluster import counter_actor
from deployments.cluster.counter_actor import NAMESPACE, ActorBook, CounterActor
from deployments.errors import MeteringUnavailableError, RateLimitedError
from deployments.teams.book import Settlement
from deployments.teams.counting import BudgetUse, Grant
from deployments.teams.shared_book import News, State
from deployments.teams.shared_counters import BookAwayError
from deployments.teams.tally import Now
from tests.support.asks import NOON, account, ask, at, hard

NOTHING = State([], [], [])


class FakeRay:
    """Ray, as far as the actor and who calls it know it.

    made: each actor that was made, with what it was made of. fails: what the next call raises.
    """

    def __init__(self) -> None:
        self.made: list[tuple[CounterActor, bool]] = []
        self.options: list[dict[str, Any]] = []
        self.restarted = False
        self.left = 0
        self.fails: Exception | None = None
        self.actor = SimpleNamespace(exit_actor=self._exit)

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(was_current_actor_reconstructed=self.restarted)

    def remote(self, kind: type[CounterActor]) -> Any:
        return SimpleNamespace(options=lambda **options: self._options(kind, options))

    def _options(self, kind: type[CounterActor], options: dict[str, Any]) -> Any:
        self.options.append(options)
        return SimpleNamespace(remote=lambda had_one: self._make(kind, had_one))

    def _make(self, kind: type[CounterActor], had_one: bool) -> Any:
        if self.fails is not None:
            raise self.fails
        actor = kind(had_one)
        self.made.append((actor, had_one))
        names = ("reserve", "tell", "join", "leave", "budgets")
        return SimpleNamespace(**{name: SimpleNamespace(remote=self._call(getattr(actor, name))) for name in names})

    def _call(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any) -> Any:
            await asyncio.sleep(0)
            if self.fails is not None:
                raise self.fails
            return method(*arguments)

        return call

    def _exit(self) -> None:
        self.left += 1


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[Now]:
    """What the time is: the last of them."""
    times = [at(0)]
    monkeypatch.setattr(counter_actor.Now, "read", lambda: times[-1])
    return times


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, now: list[Now]) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(counter_actor, "ray", fake)
    return fake


async def test_one_actor_of_a_cluster_keeps_the_book(ray: FakeRay, now: list[Now]) -> None:
    book, team = ActorBook("counters"), account(parallel=1, budget=hard(10))
    first, second = ask(team, cost=4), ask(team, cost=4)
    assert await book.reserve("a", first, []) is None
    assert not await book.tell("a", News([]))
    await book.join("a", NOTHING)
    assert isinstance(await book.reserve("a", first, []), Grant)
    assert isinstance(await book.reserve("a", second, []), RateLimitedError)
    assert await book.tell("a", News([], open=[first.id]))
    now.append(at(7))
    assert isinstance(await book.reserve("a", second, [Settlement(first.id, 1, 3)]), Grant)
    day = NOON - 43_200
    assert await book.budgets() == [
        BudgetUse(account="team:a", period_start=day, spent=3, reserved=4, amount=10, hard=True)
    ]
    assert len(ray.made) == 1
    (options,) = ray.options
    assert options == {
        "name": "counters",
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
    }


async def test_it_ends_with_its_last_caller(ray: FakeRay) -> None:
    book, team = ActorBook("counters"), account(parallel=1, budget=hard(10))
    asked = ask(team, cost=4)
    for name in ("a", "b"):
        await book.join(name, NOTHING)
    await book.reserve("a", asked, [])
    await book.leave("a", [Settlement(asked.id, 1, 3)])
    assert ray.left == 0
    assert [(use.spent, use.reserved) for use in await book.budgets()] == [(3, 0)]
    await book.leave("b", [])
    assert ray.left == 1


@pytest.mark.parametrize("failure", [ActorUnavailableError("away", None), ValueError("no such actor")])
async def test_an_actor_that_does_not_answer_is_asked_again(ray: FakeRay, failure: Exception) -> None:
    book = ActorBook("counters")
    await book.join("a", NOTHING)
    ray.fails = failure
    with pytest.raises(BookAwayError) as away:
        await book.tell("a", News([]))
    assert away.value.__cause__ is failure
    ray.fails = None
    assert await book.tell("a", News([]))
    assert len(ray.made) == 1


async def test_one_that_has_died_is_followed_by_one_that_knows_it(ray: FakeRay, now: list[Now]) -> None:
    book, asked = ActorBook("counters"), ask(account(budget=hard(10)))
    await book.join("a", NOTHING)
    assert isinstance(await book.reserve("a", asked, []), Grant)
    ray.fails = died = ActorDiedError()
    with pytest.raises(BookAwayError) as away:
        await book.reserve("a", asked, [])
    assert away.value.__cause__ is died
    ray.fails = None
    await book.join("a", NOTHING)
    assert [had_one for _, had_one in ray.made] == [False, True]
    refused = await book.reserve("a", asked, [])
    assert isinstance(refused, MeteringUnavailableError)
    now.append(at(60))
    assert isinstance(await book.reserve("a", asked, []), Grant)


async def test_one_that_cannot_be_made_is_away_and_none_that_died(ray: FakeRay) -> None:
    book = ActorBook("counters")
    ray.fails = ValueError("no room")
    with pytest.raises(BookAwayError):
        await book.join("a", NOTHING)
    ray.fails = None
    await book.join("a", NOTHING)
    assert [had_one for _, had_one in ray.made] == [False]


async def test_one_that_ray_has_restarted_counts_again(ray: FakeRay) -> None:
    ray.restarted = True
    book = ActorBook("counters")
    await book.join("a", NOTHING)
    assert isinstance(await book.reserve("a", ask(account(budget=hard(10))), []), MeteringUnavailableError)


def test_versions_that_may_not_understand_one_another_have_each_their_own() -> None:
    from monitoring.version import package_version

    assert ActorBook()._actor_name == counter_actor.ACTOR_NAME == f"starcoder-counters-{package_version()}"
