"""How many tokens come before a new prompt's: as if those that have gone had never waited."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.replica.backlog import Backlog, Standing

STANDINGS = [Standing(tenant, weight, level) for tenant, weight in (("red", 1.0), ("blue", 2.0)) for level in (0, 1)]
PROMPTS = st.lists(st.tuples(st.sampled_from(STANDINGS), st.integers(1, 500)), max_size=12)


@given(PROMPTS, st.data())
def test_what_has_gone_leaves_nothing(prompts: list[tuple[Standing, int]], data: st.DataObject) -> None:
    backlog, left = Backlog(), Backlog()
    for prompt in prompts:
        backlog.add(*prompt)
    for prompt in prompts:
        if data.draw(st.booleans()):
            backlog.remove(*prompt)
        else:
            left.add(*prompt)
    assert (backlog.tokens, backlog.prompts) == (left.tokens, left.prompts)
    for standing in STANDINGS:
        assert backlog.before(standing, 100) == pytest.approx(left.before(standing, 100))


def test_of_others_counts_what_they_get_meanwhile() -> None:
    backlog, (low, *_) = Backlog(), STANDINGS
    red, blue = Standing("red", 1.0, 1), Standing("blue", 2.0, 1)
    backlog.add(red, 30)
    backlog.add(blue, 500)
    assert backlog.before(red, 70) == 30 + 2 * (30 + 70), "twice its own, by weight"
    assert backlog.before(blue, 100) == 500 + 30, "all that there is"
    backlog.add(low, 7)
    assert backlog.before(red, 70) == 30 + 200 + 7, "and all of a better class"
