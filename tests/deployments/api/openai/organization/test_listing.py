"""Lists in pages: each item once, while others come and go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.api.openai.organization.listing import after
from deployments.api.openai.organization.people import _after
from deployments.errors import InvalidRequestError


@given(st.data())
def test_each_item_is_listed_once_while_others_come_and_end(data: st.DataObject) -> None:
    items = [str(number) for number in range(data.draw(st.integers(0, 12)))]
    ended: set[str] = set()
    seen: list[str] = []
    stayed, cursor = set(items), None
    while True:
        limit = data.draw(st.integers(1, 4))
        page, has_more = after(items, cursor, limit, str, lambda item, ended=frozenset(ended): item not in ended)
        assert len(page) <= limit
        assert not ended & set(page)
        seen += page
        if not has_more:
            break
        cursor = page[-1]
        gone = data.draw(st.sets(st.sampled_from(items), max_size=2))
        ended |= gone
        stayed -= gone
        items = items + [str(len(items))] * data.draw(st.integers(0, 1))
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)


@given(
    st.sets(st.text(max_size=3), max_size=12),
    st.lists(st.tuples(st.text(max_size=3), st.booleans()), max_size=8),
    st.integers(1, 4),
)
def test_people_come_and_go(people: set[str], changes: list[tuple[str, bool]], limit: int) -> None:
    here, stayed, seen, cursor = set(people), set(people), [], None
    while True:
        page, has_more = _after(here, cursor, limit)
        seen += page
        if not has_more:
            break
        cursor = page[-1]
        if changes:
            somebody, comes = changes.pop()
            (here.add if comes else here.discard)(somebody)
            stayed &= here
    assert seen == sorted(set(seen))
    assert stayed <= set(seen)


def test_a_cursor_that_names_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="nothing here with the id 'x'"):
        after(["a"], "x", 1, str)
