from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deployments.teams.book import Used
from deployments.teams.recent import Recent
from tests.support.asks import account, ask, at

USES = st.lists(st.tuples(st.floats(0, 20), st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=60)


@given(uses=USES)
def test_it_tells_what_may_not_have_drained_and_what_may_not_be_booked(uses: list[tuple[float, int, int]]) -> None:
    """As exactly as slots of 5 s are: what is told may be that much older than it is."""
    recent, seconds, log = Recent(), 0.0, []
    for passed, tokens, cost in uses:
        seconds += passed
        recent.add(ask(account()), tokens, cost, at(seconds))
        log.append((seconds, tokens, cost))
    told = recent.used(at(seconds))
    (used,) = told if told else [Used(account(), 0, 0, 0)]
    rounding = len(log)
    exact = sum(tokens * max(0.0, 1 - (seconds - then) / 60) for then, tokens, _ in log)
    early = sum(tokens * max(0.0, 1 - (seconds - then + 5) / 60) for then, tokens, _ in log)
    assert early - rounding <= used.tokens <= exact + rounding
    unbooked = [sum(cost for then, _, cost in log if seconds - then < age) for age in (9.9, 15.1)]
    assert unbooked[0] <= used.cost <= unbooked[1]


def test_accounts_that_used_nothing_for_a_minute_are_forgotten() -> None:
    recent = Recent()
    for number in range(100):
        recent.add(ask(account(f"key:{number}")), 1, 1, at(0))
    recent.add(ask(account("key:now")), 1, 1, at(66))
    assert recent.used(at(66)) == [Used(account("key:now"), 1, 1, 1)]
    assert list(recent.slots) == ["key:now"]
