"""Scheduler and cache under random load: every output equals that of a naive one-request loop."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.request import Request, SamplingParams
from model.scheduling import drafting
from model.scheduling.prompt_logprobs import predicting_positions
from tests.support.loads import Arrival, arrivals, engine_options, prompts, run_load
from tests.support.toy_engine import run_to_end, tokens_of, toy_engine


@given(arrivals=arrivals, options=engine_options, share=st.sampled_from([drafting.MOST_DRAFTS, 0.5, 1.5]))
@settings(max_examples=120, deadline=None)
def test_any_load_gives_each_request_what_it_would_get_alone(
    arrivals: list[Arrival], options: dict[str, Any], share: float
) -> None:
    """Requests arrive between steps; some are aborted some steps later; blocks are scarce.

    share: of sequences with drafts that the others do not wait for; beyond 1 they never do.
    """
    engine = toy_engine(**options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafting, "MOST_DRAFTS", share)
        run_load(engine, arrivals).check()
    executor: Any = engine.executor
    assert executor.largest_batch <= options["max_num_seqs"]
    assert executor.largest_step <= max(options["max_num_batched_tokens"], options["max_num_seqs"])


@given(arrivals=arrivals, options=engine_options)
@settings(max_examples=60, deadline=None)
def test_no_step_has_more_rows_of_logits_than_memory_is_set_aside_for(
    arrivals: list[Arrival], options: dict[str, Any]
) -> None:
    engine = toy_engine(**options)
    schedule = engine.scheduler.schedule

    def checked() -> Any:
        plan = schedule()
        assert sum(len(predicting_positions(s.sequence, s.count)) for s in plan) <= options["prompt_rows"]
        assert sum(len(s.draft) for s in plan) <= engine.limits.drafted_rows
        return plan

    engine.scheduler.schedule = checked  # type: ignore[method-assign]
    run_load(engine, arrivals).check()
    executor: Any = engine.executor
    assert executor.most_logit_rows <= engine.limits.logit_rows


@given(st.lists(prompts, min_size=2, max_size=10), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
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
