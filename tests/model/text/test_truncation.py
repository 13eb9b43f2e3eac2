"""The arithmetic of cuts: what is kept fits, wastes little, and begins at an anchor."""

from __future__ import annotations

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


@given(
    length=st.integers(1, 1000),
    open_tokens=st.integers(0, 60),
    budget=st.integers(1, 300),
    strides=st.integers(1, 8),
)
def test_left_cut_keeps_half_of_the_budget_whatever_the_stride(
    length: int, open_tokens: int, budget: int, strides: int
) -> None:
    """And whatever the word at the cursor may still become."""
    stride = -(-budget // strides)
    wanted = demand(length, max(0, length - open_tokens), stride)
    assert length <= wanted <= length + min(WORD_ALLOWANCE, stride)
    for cut in (left_cut(length, budget, stride), left_cut(length, budget, stride, wanted)):
        kept = length - cut
        assert min(length, budget / 2) <= kept <= budget or (cut, kept) == (0, length)
        assert cut % stride == 0 or kept == budget
