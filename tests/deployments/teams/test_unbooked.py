from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from deployments.teams.records import LedgerEntry
from deployments.teams.unbooked import SEEN_S, Unbooked
from tests.support.accounts import entry

DAY_S = 86_400

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("end"), st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 9)),
        st.tuples(st.just("book"), st.just(""), st.integers(0, 5), st.integers(0, 30)),
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_all_that_is_not_booked_and_nothing_that_was_booked_long_ago(
    steps: list[tuple[str, str, int, int]],
) -> None:
    now, waiting, booked = 0.0, list[LedgerEntry](), list[tuple[float, LedgerEntry]]()
    unbooked = Unbooked(lambda: now)
    for number, (what, team, which, amount) in enumerate(steps):
        if what == "end":
            waiting.append(entry(number, team_id=team, started_at=which * DAY_S + 5.0, cost=amount))
            unbooked.ended(waiting[-1])
        else:
            now += amount
            done, waiting = waiting[:which], waiting[which:]
            unbooked.booked(done)
            booked = [(at, one) for at, one in booked if now - at < SEEN_S] + [(now, one) for one in done]
        expected: Counter[tuple[str, int]] = Counter()
        for one in [*waiting, *(one for _, one in booked)]:
            expected[f"team:{one.team_id}", int(one.started_at // DAY_S) * DAY_S] += one.cost
        told = {(name, day): cost for name, days in unbooked.costs().items() for day, cost in days.items()}
        assert told == +expected
    unbooked.booked(waiting)
    assert not unbooked._waiting


def test_while_the_database_is_away_what_was_booked_last_is_not_taken_for_known() -> None:
    now = 0.0
    unbooked = Unbooked(lambda: now)
    for number in (1, 2):
        unbooked.ended(entry(number, started_at=0.0, cost=number))
    unbooked.booked([entry(1, started_at=0.0, cost=1)])
    now = 3600.0
    assert unbooked.costs() == {"team:team_1": {0: 3}}
    unbooked.booked([entry(2, started_at=0.0, cost=2)])
    assert unbooked.costs() == {"team:team_1": {0: 2}}
