"""The arithmetic of cuts: what is kept fits, wastes little, and begins at an anchor."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from model.text.truncation import WORD_ALLOWANCE, anchor_stride, demand, left_cut, split_window


@given(
    prefix=st.integers(0, 5000),
    suffix=st.integers(0, 5000),
    budget=st.integers(1, 2000),
    block=st.sampled_from([1, 8, 16, 32]),
    share=st.floats(0, 0.9),
)
def test_split_window_fits_and_wastes_little(prefix: int, suffix: int, budget: int, block: int, share: float) -> None:
    stride = anchor_stride(budget, block)
    split = split_window(prefix, suffix, budget, stride, share)
    kept_prefix, kept_suffix = prefix - split.prefix_start, split.suffix_end
    assert 0 <= kept_prefix <= prefix
    assert 0 <= kept_suffix <= suffix
    assert kept_prefix + kept_suffix <= budget
    if prefix + suffix <= budget:
        assert (kept_prefix, kept_suffix) == (prefix, suffix)
    else:
        assert kept_prefix + kept_suffix > budget - stride
        assert kept_prefix >= min(prefix, (budget - int(budget * share)) // 2)
        assert kept_suffix >= min(suffix, int(budget * share))


@given(length=st.integers(0, 10_000), budget=st.integers(1, 2000), block=st.sampled_from([1, 16, 32]))
def test_left_cut_lies_on_an_anchor(length: int, budget: int, block: int) -> None:
    stride = anchor_stride(budget, block)
    cut = left_cut(length, budget, stride)
    assert 0 <= length - cut <= budget or cut == 0
    assert cut % stride == 0
    assert stride == 1 or stride % block == 0


def test_left_cut_keeps_half_of_the_budget_whatever_the_stride() -> None:
    """And whatever the word at the cursor may still become: all of small numbers."""
    for budget, stride in itertools.product(range(1, 25), range(1, 25)):
        for length, settled in itertools.product(range(budget, budget + 2 * stride + 1), range(stride + 1)):
            wanted = demand(length, length - min(settled, length), stride)
            cut = left_cut(length, budget, stride, wanted)
            assert budget / 2 <= length - cut <= budget
            assert cut % stride == 0 or length - cut == budget
            assert left_cut(length, budget, stride) <= cut


@given(length=st.integers(0, 1000), unsettled=st.integers(0, 100), stride=st.integers(1, 100))
def test_demand_follows_the_settled_tokens_by_no_more_than_a_word(length: int, unsettled: int, stride: int) -> None:
    settled = max(0, length - unsettled)
    wanted = demand(length, settled, stride)
    assert wanted == length or wanted == settled + min(WORD_ALLOWANCE, stride) > length
