from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deployments.teams.book import Used
from deployments.teams.recent import Recent
from deployments.teams.unbooked import Costs
from tests.support.asks import account, ask, at

USES = st.lists(st.tuples(st.floats(0, 20), st.integers(0, 1000)), min_size=1, max_size=60)


@given(uses=USES)
def test_it_tells_what_may_not_have_drained(uses: list[tuple[float, int]]) -> None:
    """As exactly as slots of 5 s are: what is told may be that much older than it is."""
    recent, seconds, log = Recent(), 0.0, []
    for passed, tokens in uses:
        seconds += passed
        recent.add(ask(account()), tokens, at(seconds))
        log.append((seconds, tokens))
    told = recent.used(at(seconds))
    (used,) = told if told else [Used(account(), 0, 0)]
    rounding = len(log)
    exact = sum(tokens * max(0.0, 1 - (seconds - then) / 60) for then, tokens in log)
    early = sum(tokens * max(0.0, 1 - (seconds - then + 5) / 60) for then, tokens in log)
    assert early - rounding <= used.tokens <= exact + rounding


def test_what_is_used_in_five_seconds_stands_in_one_place() -> None:
    recent = Recent()
    for seconds, slots in ((100.0, 1), (100.0, 1), (104.9, 1), (105.0, 2), (109.9, 2), (110.0, 3)):
        recent.add(ask(account()), 10, at(seconds))
        assert len(recent.slots["team:a"]) == slots
    assert [(slot.requests, slot.tokens) for slot in recent.slots["team:a"]] == [(3, 30), (2, 20), (1, 10)]


def test_accounts_that_used_nothing_for_a_minute_are_forgotten() -> None:
    recent = Recent()
    for number in range(100):
        recent.add(ask(account(f"key:{number}")), 1, at(0))
    recent.add(ask(account("key:now")), 1, at(66))
    assert recent.used(at(66)) == [Used(account("key:now"), 1, 1)]
    assert list(recent.slots) == list(recent._accounts) == ["key:now"]


def test_accounts_with_something_that_is_not_booked_are_not() -> None:
    costs: Costs = {"team:a": {0: 5, 86_400: 7}, "team:stranger": {0: 1}}
    recent = Recent(lambda: costs)
    recent.add(ask(account("team:a"), account("key:a")), 1, at(0))
    recent.add(ask(account("key:now")), 0, at(3600))
    used, _ = recent.used(at(3600))
    assert used == Used(account("team:a"), 0, 0, [(0, 5), (86_400, 7)])
    costs.clear()
    recent.add(ask(account("key:now")), 0, at(7200))
    assert list(recent._accounts) == ["key:now"]
