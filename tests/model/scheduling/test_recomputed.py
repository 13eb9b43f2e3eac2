"""What an engine computes a second time is counted, to the token: the rest is each sequence once, and wrong drafts."""

from __future__ import annotations

from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from model.engine import Engine
from model.request import Request, SamplingParams
from monitoring.metrics import (
    ACCEPTED_DRAFT_TOKENS,
    DRAFT_TOKENS,
    PREEMPTIONS,
    RECOMPUTED_TOKENS,
)
from tests.support.toy_engine import ToyExecutor, run_to_end, tokens_of, toy_engine


def check_ledger(engine: Engine, requests: list[Request]) -> None:
    """Run requests that share nothing to their end, and account for every token that was computed."""
    for request in requests:
        engine.add(request)
    outputs = run_to_end(engine)
    stats = engine.stats()
    once = sum(len(r.prompt_ids) + len(tokens_of(outputs[r.request_id])) - 1 for r in requests)
    rejected = stats[DRAFT_TOKENS] - stats[ACCEPTED_DRAFT_TOKENS]
    computed = cast(ToyExecutor, engine.executor).computed_tokens
    assert computed == once + rejected + stats[RECOMPUTED_TOKENS]


def request(number: int, length: int, max_tokens: int, priority: int = 0) -> Request:
    params = SamplingParams(max_tokens, temperature=0, ignore_eos=True)
    return Request(str(number), [number + 1] * length, params, priority)


@given(
    load=st.lists(
        st.tuples(st.integers(1, 35), st.integers(1, 25), st.integers(0, 2)),
        min_size=1,
        max_size=10,
    ),
    num_blocks=st.integers(16, 40),
    step_tokens=st.integers(4, 40),
    caching=st.booleans(),
    speculation=st.sampled_from([0, 0, 5]),
    async_scheduling=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_every_token_is_accounted_for(
    load: list[tuple[int, int, int]],
    num_blocks: int,
    step_tokens: int,
    caching: bool,
    speculation: int,
    async_scheduling: bool,
) -> None:
    engine = toy_engine(
        num_blocks=num_blocks,
        max_num_seqs=6,
        max_num_batched_tokens=step_tokens,
        enable_prefix_caching=caching,
        speculative_tokens=speculation,
        async_scheduling=async_scheduling,
    )
    check_ledger(engine, [request(number, *one) for number, one in enumerate(load)])


def test_who_is_preempted_is_computed_again() -> None:
    engine = toy_engine(num_blocks=16, max_num_seqs=4, enable_prefix_caching=False)
    check_ledger(engine, [request(number, 10, 30) for number in range(4)])
    assert engine.stats()[RECOMPUTED_TOKENS] > 10 * engine.stats()[PREEMPTIONS] > 0
