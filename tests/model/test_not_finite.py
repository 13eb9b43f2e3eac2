"""A sequence whose logits are no numbers ends with an error; it draws no noise, and the others do not notice."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from model.engine import Engine
from model.request import Output, Request, SamplingParams
from model.sampler import NO_TOKEN, draw
from model.scheduling.sequence import Sequence
from monitoring.metrics import GENERATION_TOKENS, NOT_FINITE
from tests.support.toy_engine import naive, run_to_end, tokens_of, toy_engine

NAN, INF = float("nan"), float("inf")
PARAMS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"temperature": 0.8, "top_k": 5, "top_p": 0.9},
    {"temperature": 0.0, "logit_bias": {3: 2.0}, "min_tokens": 3},
    {"temperature": 1.0, "repetition_penalty": 1.2, "frequency_penalty": 0.5},
    {"temperature": 1.0, "logprobs": 2},
]


@pytest.mark.parametrize("params", PARAMS, ids=lambda params: "-".join(params))
def test_a_row_that_is_no_numbers_gives_no_token_and_the_others_theirs(params: dict[str, Any]) -> None:
    torch.manual_seed(3)
    whole = torch.randn(6, 40)
    rows = [Sequence(Request("r", [1], SamplingParams(**params)), seed=i, arrival=0, limit=99) for i in range(6)]
    broken = whole.clone()
    broken[0, 7] = NAN
    broken[2] = NAN
    broken[3, 39] = INF
    broken[5] = -INF
    found, expected = draw(broken, rows, (0,)), draw(whole, rows, (0,)).read()
    assert ((found.tokens >= 0) & (found.tokens < 40)).all(), "the next step looks it up"
    sampled = found.read()
    assert [t == NO_TOKEN for t in sampled.tokens] == [True, False, True, True, False, True]
    assert [sampled.tokens[i] for i in (1, 4)] == [expected.tokens[i] for i in (1, 4)]
    assert sampled.logprobs[1] == expected.logprobs[1]


def test_a_token_that_cannot_be_is_no_fault() -> None:
    logits = torch.randn(1, 40)
    logits[0, 5] = -INF
    row = Sequence(Request("r", [1], SamplingParams(temperature=1.0)), seed=0, arrival=0, limit=99)
    assert draw(logits, [row], (0,)).read().tokens != [NO_TOKEN]


def break_logits(engine: Engine, monkeypatch: pytest.MonkeyPatch, poison: int) -> None:
    """Contexts that hold the token `poison` give NaN."""
    executor = cast(Any, engine.executor)
    run = executor.run

    def broken_run(batch: Any) -> Any:
        logits = run(batch)
        rows = batch.logit_rows
        ends = batch.query_lens.cumsum()
        for i, row in enumerate(rows if logits is not None else []):
            sequence = int((ends <= row).sum())
            length = int(batch.context_lens[sequence])
            size = engine.pool.block_size
            slots = [batch.block_tables[sequence, p // size] * size + p % size for p in range(length)]
            if poison in executor.slots[slots, 0]:
                logits[i] = NAN
        return logits

    monkeypatch.setattr(executor, "run", broken_run)


def request(name: str, prompt: list[int], **params: object) -> Request:
    return Request(name, prompt, SamplingParams(**{"temperature": 0.0, "ignore_eos": True, "max_tokens": 8, **params}))


@pytest.mark.parametrize("async_scheduling", [False, True])
@pytest.mark.parametrize("speculative_tokens", [0, 4])
def test_one_sequence_ends_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, async_scheduling: bool, speculative_tokens: int
) -> None:
    engine = toy_engine(async_scheduling=async_scheduling, speculative_tokens=speculative_tokens)
    good = [request("a", [1, 2, 3]), request("b", [4, 5], temperature=1.0, seed=3)]
    for one in good:
        engine.add(one)
    undisturbed = run_to_end(engine)
    engine = toy_engine(async_scheduling=async_scheduling, speculative_tokens=speculative_tokens)
    for one in (good[0], request("bad", [49, 6] * 9), good[1]):
        engine.add(one)
    break_logits(engine, monkeypatch, 49)
    outputs = run_to_end(engine)
    for one in good:
        assert tokens_of(outputs[one.request_id]) == tokens_of(undisturbed[one.request_id])
        assert outputs[one.request_id][-1].failure is None
    (end,) = outputs["bad"]
    assert (end.token_ids, end.finish_reason, end.failure) == ([], "abort", "not_finite")
    assert engine.stats()[NOT_FINITE] == 1
    assert engine.stats()[GENERATION_TOKENS] == 16
    engine.check_integrity()


@pytest.mark.parametrize("speculative_tokens", [0, 4])
def test_what_came_before_is_told(monkeypatch: pytest.MonkeyPatch, speculative_tokens: int) -> None:
    """The poison is a token that the sequence draws itself, or drafts and finds to be right."""
    one = request("r", [1, 2, 3], max_tokens=20)
    expected = naive(one)
    poison = next(t for t in expected[4:] if t not in [1, 2, 3, *expected[:4]])
    engine = toy_engine(speculative_tokens=speculative_tokens)
    engine.add(one)
    break_logits(engine, monkeypatch, poison)
    found: list[Output] = run_to_end(engine)["r"]
    told = [t for output in found for t in output.token_ids]
    assert told == expected[: expected.index(poison) + 1]
    assert [output.failure for output in found[-1:]] == ["not_finite"]


def test_nobody_finds_its_part_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is no number would else be in the context of every prompt that begins alike."""
    engine = toy_engine()
    break_logits(engine, monkeypatch, 49)
    engine.add(request("bad", [6] * 16 + [49] * 8))
    run_to_end(engine)
    assert (engine.pool.num_used, engine.pool.num_cached) == (0, 0)
    engine.add(request("next", [6] * 20))
    (first, *_) = run_to_end(engine)["next"]
    assert first.cached_tokens == 0
