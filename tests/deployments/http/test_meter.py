"""What a call of the engine comes to, by what was heard of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deployments.http.meter import Meter
from deployments.protocol import Delta, GenerationRequest
from model.request import SamplingParams
from tests.support.accounts import PRICE, entry

PROMPT = list(range(40))


def asked(prompts: int = 1, best_of: int = 1, max_tokens: int = 6) -> GenerationRequest:
    return GenerationRequest(
        request_id="r",
        prompts=[PROMPT] * prompts,
        params=SamplingParams(max_tokens=max_tokens),
        n=best_of,
        best_of=best_of,
    )


def cost(prompt: int, cached: int, completion: int) -> int:
    return (prompt - cached) * 7 + cached * 2 + completion * 11


def meter(request: GenerationRequest) -> Meter:
    return Meter(request, entry(1), PRICE)


def test_replayed_tokens_cost_what_cached_ones_do() -> None:
    one = meter(asked())
    one.saw([Delta(index=0, token_ids=[1, 2, 3], replayed_tokens=3, cached_tokens=40)])
    one.saw([Delta(index=0, token_ids=[4], finish_reason="stop")])
    owed = one.ended(5.0)
    assert owed is not None
    assert (owed.completion_tokens, owed.replayed_tokens, owed.cost) == (4, 3, cost(40, 40, 1) + 3 * 2)


def test_superseded_is_a_kind_of_its_own() -> None:
    one = meter(asked())
    one.saw([Delta(index=0, token_ids=[1])])
    one.saw([Delta(index=0, finish_reason="stop", ended_by="superseded")])
    owed = one.ended(5.0)
    assert owed is not None
    assert (owed.kind, owed.prompt_tokens, owed.completion_tokens, owed.estimated) == ("superseded", 40, 1, False)


def test_superseded_before_the_first_token_is_estimated() -> None:
    one = meter(asked())
    one.saw([Delta(index=0, finish_reason="stop", ended_by="superseded")])
    owed = one.ended(5.0)
    assert owed is not None
    assert (owed.kind, owed.prompt_tokens, owed.estimated) == ("superseded", 40, True)


def test_prompts_that_never_ran_are_not_paid_for() -> None:
    one = meter(asked(prompts=3, best_of=2))
    one.saw([Delta(index=3, token_ids=[1])])
    owed = one.ended(5.0, "cancelled")
    assert owed is not None
    assert (owed.prompt_tokens, owed.completion_tokens) == (40, 1)


def test_the_cache_counts_as_far_as_the_first_completion_found_it() -> None:
    one = meter(asked(best_of=2))
    one.saw([Delta(index=0, token_ids=[1], cached_tokens=16), Delta(index=1, token_ids=[1], cached_tokens=32)])
    owed = one.ended(5.0, "cancelled")
    assert owed is not None
    assert owed.cached_tokens == 16


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 9), st.integers(0, 99)), max_size=5),
        max_size=12,
    )
)
def test_the_pieces_in_which_news_come_make_no_difference(batches: list[list[tuple[int, int, int, int]]]) -> None:
    """And what is settled is never more than what was reserved, if the engine keeps to `max_tokens`."""
    request = asked(prompts=3, best_of=2, max_tokens=100 * 9)
    deltas = [
        [
            Delta(index=index, token_ids=[1] * tokens, replayed_tokens=min(replayed, tokens), cached_tokens=cached)
            for index, tokens, replayed, cached in batch
        ]
        for batch in batches
    ]
    pieces, whole = meter(request), meter(request)
    for batch in deltas:
        pieces.saw(batch)
    whole.saw([delta for batch in deltas for delta in batch])
    owed = pieces.ended(1.0, "cancelled")
    assert owed == whole.ended(1.0, "cancelled")
    if owed is not None:
        assert owed.cost <= pieces.most_cost
        assert owed.prompt_tokens + owed.completion_tokens <= pieces.most_tokens
        assert owed.cached_tokens <= owed.prompt_tokens


def test_how_it_ended_is_what_was_heard_or_else_how_it_was_broken_off() -> None:
    one = meter(asked(best_of=2))
    assert one.ended(5.0, "cancelled") is None
    one.saw([Delta(index=0, token_ids=[1], finish_reason="stop", cached_tokens=99)])
    for kind, expected in ((None, "completed"), ("cancelled", "cancelled"), ("failed", "failed")):
        owed = one.ended(7.0, kind)  # type: ignore[arg-type]
        assert owed is not None
        assert (owed.kind, owed.ended_at, owed.estimated) == (expected, 7.0, False)
        assert owed.cached_tokens == 40, "no more than there is"
    one.saw([Delta(index=1, finish_reason="length")])
    owed = one.ended(7.0, "cancelled")
    assert owed is not None
    assert (owed.kind, owed.completion_tokens, owed.cached_tokens) == ("completed", 1, 0)


def test_what_is_owed_before_the_end_is_estimated() -> None:
    """At first all prompts, then those that were heard of."""
    one = meter(asked(prompts=3))
    begun = entry(1)
    first = one.asked()
    assert (first.kind, first.started_at, first.ended_at, first.estimated) == ("failed", 1.0, begun.started_at, True)
    assert (first.prompt_tokens, first.completion_tokens, first.cost) == (120, 0, cost(120, 0, 0))
    left = one.left_unheard(9.0)
    assert (left.kind, left.ended_at, left.prompt_tokens, left.estimated) == ("cancelled", 9.0, 120, True)
    one.saw([Delta(index=1, token_ids=[1, 2], cached_tokens=16), Delta(index=1, cached_tokens=8, replayed_tokens=1)])
    one.saw([Delta(index=1, replayed_tokens=1)])
    so_far = one.so_far(4.0)
    assert (so_far.kind, so_far.ended_at, so_far.estimated) == ("failed", 4.0, True)
    assert (so_far.prompt_tokens, so_far.cached_tokens, so_far.completion_tokens) == (40, 16, 2)
    assert (so_far.replayed_tokens, so_far.cost) == (2, cost(42, 18, 0))
