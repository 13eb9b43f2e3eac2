"""A request whose output another engine has begun goes on exactly as if this one had drawn its beginning."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import EngineConfig
from model.pico import CHECKPOINT
from model.process.rank import Rank
from model.request import Output, Request, SamplingParams
from monitoring import metrics
from tests.support.loads import engine_options, prompts
from tests.support.native import needs_kernel
from tests.support.toy_engine import run_to_end, tokens_of, toy_engine

parameters = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 20),
    min_tokens=st.integers(0, 12),
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_p=st.sampled_from([1.0, 0.9]),
    top_k=st.sampled_from([0, 7]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.6]),
    presence_penalty=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 2**63),
    logprobs=st.sampled_from([None, 0, 2]),
    prompt_logprobs=st.sampled_from([None, None, 1]),
    stop_token_ids=st.sampled_from([(), (5,)]),
    ignore_eos=st.booleans(),
)


def run(request: Request, others: list[Request] | None = None, **options: Any) -> list[Output]:
    engine = toy_engine(**options)
    for one in [*(others or []), request]:
        engine.add(one)
    return run_to_end(engine)[request.request_id]


def logprobs_of(outputs: list[Output]) -> list[Any]:
    return [entry for output in outputs for entry in output.logprobs or []]


def ending(outputs: list[Output]) -> tuple[str | None, int | None]:
    return outputs[-1].finish_reason, outputs[-1].stop_token_id


@given(
    prompt=prompts,
    params=parameters,
    share=st.floats(0, 1),
    options=engine_options,
    neighbours=st.lists(prompts, max_size=4),
)
@settings(max_examples=120, deadline=None)
def test_it_goes_on_where_the_other_stopped(
    prompt: list[int], params: SamplingParams, share: float, options: dict[str, Any], neighbours: list[list[int]]
) -> None:
    """Whatever its parameters, wherever it was cut, with drafts or without, alone or among others."""
    request = Request("r", prompt, params)
    whole = run(request)
    ids = tokens_of(whole)
    cut = min(int(share * len(ids)), len(ids) - 1)
    others = [Request(str(i), ids, SamplingParams(max_tokens=5)) for i, ids in enumerate(neighbours)]
    rest = run(msgspec.structs.replace(request, output_ids=ids[:cut]), others, **options)
    assert tokens_of(rest) == ids[cut:]
    assert logprobs_of(rest) == logprobs_of(whole)[cut:]
    assert ending(rest) == ending(whole)
    assert (rest[0].prompt_logprobs is None) == (params.prompt_logprobs is None or cut > 0), "it has been told"


def test_what_had_all_its_tokens_has_ended() -> None:
    (only,) = run(Request("r", [1, 2], SamplingParams(max_tokens=3), output_ids=[1, 2, 3]))
    assert (only.token_ids, only.finish_reason) == ([], "length")


@pytest.mark.parametrize("known", [0, 30])
def test_cached_tokens_are_the_prompts(known: int) -> None:
    """What the cache holds of the output is no part of the prompt, in no figure."""
    engine = toy_engine()
    prompt, params = [1] * 9, SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)
    engine.add(Request("first", prompt, params))
    output = tokens_of(run_to_end(engine)["first"])
    before = dict(engine.counters.totals())
    engine.add(Request("again", prompt, params, output_ids=output[:known]))
    first = run_to_end(engine)["again"][0]
    counted = {name: total - before.get(name, 0) for name, total in engine.counters.totals().items()}
    assert first.cached_tokens == (9 if known else 8)
    assert counted[metrics.PREFIX_CACHE_QUERIES.name] == 9
    assert counted[metrics.PREFIX_CACHE_HITS.name] == first.cached_tokens
    assert counted[metrics.PROMPT_TOKENS.name] == 9
    assert counted[metrics.GENERATION_TOKENS.name] == 40 - known


@needs_kernel
@pytest.mark.parametrize("drafts", [0, 8])
def test_our_kernels_go_on_to_the_bit(drafts: int) -> None:
    """Logits are the same whether a token was computed in a prompt or by itself, drafted or not."""
    config = EngineConfig(model=str(CHECKPOINT), device="cpu", cpu_kernels="native", num_threads=1, num_kv_blocks=200)
    rank = Rank(config.model_copy(update={"speculative_tokens": drafts}))
    rank.load()

    def outputs(request: Request) -> list[Output]:
        engine = rank.engine()
        engine.add(request)
        return run_to_end(engine)["r"]

    for seed in range(3):
        params = SamplingParams(max_tokens=60, seed=seed, ignore_eos=True, logprobs=0, frequency_penalty=0.3)
        request = Request("r", [40 + seed, 41, 42, 300, 301], params)
        whole = outputs(request)
        ids = tokens_of(whole)
        for cut in (1, 16, 33, 59):
            rest = outputs(msgspec.structs.replace(request, output_ids=ids[:cut]))
            assert tokens_of(rest) == ids[cut:]
            assert logprobs_of(rest) == logprobs_of(whole)[cut:]
