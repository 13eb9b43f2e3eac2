"""How many values a body has, told without making them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.api.common import json_size
from deployments.api.common.json_body import decode_json
from deployments.api.common.json_size import MAX_CONTAINERS, MAX_VALUES, has_too_many_values
from deployments.errors import InvalidRequestError

JSON = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a",[{\\'), max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('b",]\\', max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(value=JSON)
def test_values_are_counted_as_they_are(value: Any) -> None:
    """The least limits with which a body passes are what it has."""
    containers = commas = strings = 0
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, list | dict):
            containers += 1
            commas += max(len(one) - 1, 0)
            left += one
            left += one.values() if isinstance(one, dict) else []
        strings += isinstance(one, str)
    body = json.dumps(value).encode()
    with pytest.MonkeyPatch.context() as patch:
        for more_containers, more_values in ((0, 0), (-1, 0), (0, -1)):
            patch.setattr(json_size, "MAX_CONTAINERS", containers + more_containers)
            patch.setattr(json_size, "MAX_VALUES", commas + strings + 1 + more_values)
            too_many = json_size._too_many_outside_strings(body)
            assert too_many == bool(more_containers or more_values), body
            if not too_many:
                assert not has_too_many_values(body)


@pytest.mark.parametrize(
    ("piece", "most"),
    [(b"[],", MAX_CONTAINERS - 1), (b"{},", MAX_CONTAINERS - 1), (b"1,", MAX_VALUES), (b'"",', MAX_VALUES // 2)],
)
def test_so_many_and_no_more(piece: bytes, most: int) -> None:
    decode_json(b"[" + piece * (most - 1) + b"1]")
    with pytest.raises(InvalidRequestError) as refused:
        decode_json(b"[" + piece * (most + 1) + b"1]")
    assert refused.value.code == "too_many_values"
    assert str(MAX_CONTAINERS) in refused.value.message
    assert str(MAX_VALUES) in refused.value.message


@pytest.mark.parametrize("text", ["[" * 20_000, "," * 600_000, '\\"[' * 20_000, "\\" * 20_001, "{}" * 9000 + '"'])
def test_what_stands_in_a_string_is_no_value(text: str) -> None:
    """Quotes and backslashes in it do not end it."""
    assert decode_json(json.dumps([text, "a"]).encode()) == [text, "a"]
    assert not has_too_many_values(json.dumps([text, "a"]).encode())


@pytest.mark.parametrize("end", [b"", b"\\", b'\\"', b"\\\\\\"])
def test_a_string_without_an_end_hides_the_rest(end: bytes) -> None:
    many = b"," * (MAX_VALUES + 1)
    assert not has_too_many_values(b'["' + many + end)
    assert has_too_many_values(many + b'["' + end)
    assert has_too_many_values(b'["a"' + many + b'"' + end)
