"""Scheduler and cache under random load: every output equals that of a naive one-request loop."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from model.request import Request, SamplingParams
from tests.support.toy_engine import naive, run_to_end, tokens_of, toy_engine

# few distinct prompts with long common prefixes, so that the cache is hit, shared and fought over
prompts = st.builds(
    lambda base, cut, tail: (base * 40)[:cut] + tail,
    st.sampled_from([[1], [1, 2, 3], [7, 8]]),
    st.integers(1, 40),
    st.lists(st.integers(1, 3), max_size=3),
)
arrivals = st.lists(
    st.tuples(
        prompts, st.integers(1, 20), st.integers(0, 2), st.integers(0, 6), st.one_of(st.none(), st.integers(0, 8))
    ),
    min_size=1,
    max_size=14,
)


@given(
    arrivals=arrivals,
    num_blocks=st.integers(16, 40),
    max_num_seqs=st.integers(1, 6),
    step_tokens=st.integers(4, 40),
    caching=st.booleans(),
    speculation=st.sampled_from([0, 0, 3, 10]),
    async_scheduling=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_any_load_gives_each_request_what_it_would_get_alone(
    arrivals, num_blocks, max_num_seqs, step_tokens, caching, speculation, async_scheduling
):
    """Requests arrive between steps; some are aborted some steps later; blocks are scarce."""
    engine = toy_engine(
        num_blocks=num_blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=step_tokens,
        enable_prefix_caching=caching,
        speculative_tokens=speculation,
        async_scheduling=async_scheduling,
    )
    outputs, aborted, requests = {}, set(), {}
    pending_aborts: list[tuple[int, str]] = []
    step = 0
    for number, (prompt, max_tokens, priority, gap, abort_after) in enumerate(arrivals):
        request = Request(str(number), prompt, SamplingParams(max_tokens=max_tokens, temperature=0), priority)
        requests[request.request_id] = request
        engine.add(request)
        if abort_after is not None:
            pending_aborts.append((step + abort_after, request.request_id))
        for _ in range(gap):
            for output in engine.step():
                outputs.setdefault(output.request_id, []).append(output)
            engine.check_integrity()
            step += 1
            for when, request_id in [p for p in pending_aborts if p[0] <= step]:
                pending_aborts.remove((when, request_id))
                aborted.add(request_id)
                engine.abort(request_id)
                engine.check_integrity()
    run_to_end(engine, outputs)
    for request_id, request in requests.items():
        expected, got = naive(request), tokens_of(outputs.get(request_id, []))
        if request_id in aborted:
            assert got == expected[: len(got)]
        else:
            assert got == expected
            assert outputs[request_id][-1].finish_reason is not None
    assert engine.pool.num_used == 0
    assert engine.executor.largest_batch <= max_num_seqs
    assert engine.executor.largest_step <= max(step_tokens, max_num_seqs)


@given(st.lists(prompts, min_size=2, max_size=10), st.integers(2, 5))
@settings(max_examples=50, deadline=None)
def test_seeded_sampling_does_not_depend_on_the_neighbours(batch, seed):
    params = SamplingParams(max_tokens=12, temperature=1.3, top_p=0.9, seed=seed)
    alone = []
    for prompt in batch:
        engine = toy_engine()
        engine.add(Request("r", prompt, params))
        alone.append(tokens_of(run_to_end(engine)["r"]))
    engine = toy_engine(num_blocks=20, max_num_seqs=4, max_num_batched_tokens=9, speculative_tokens=5)
    for number, prompt in enumerate(batch):
        engine.add(Request(str(number), prompt, params))
        engine.add(Request(f"noise-{number}", prompt, SamplingParams(max_tokens=5, temperature=0.7)))
    together = run_to_end(engine)
    assert [tokens_of(together[str(n)]) for n in range(len(batch))] == alone
