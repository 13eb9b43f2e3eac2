"""Prompts whose log-probabilities are wanted share a bounded number of rows of logits."""

from __future__ import annotations

import pytest
import torch

from model.checkpoint.memory import LOGIT_BYTES, activation_bytes, logits_bytes
from model.config import EngineConfig, ModelConfig
from model.drawing import ROWS_AT_ONCE, WORKING_BYTES
from model.engine import Engine
from model.limits import BATCHED_TOKENS, DRAFTED_ROWS, PROMPT_ROWS, StepLimits
from model.request import Request, SamplingParams
from model.sampler import draw, token_logprobs
from model.scheduling.sequence import Sequence
from monitoring.metrics import PREEMPTIONS
from tests.support.peak_memory import peak_bytes
from tests.support.toy_engine import naive, naive_prompt_logprobs, run_to_end, tokens_of, toy_engine


def request(request_id: str, prompt: list[int], priority: int = 0, **params: object) -> Request:
    return Request(request_id, prompt, SamplingParams(**{"temperature": 0.0, "ignore_eos": True, **params}), priority)


def scored(request_id: str, length: int, priority: int = 0) -> Request:
    return request(request_id, [int(request_id, 36) % 40 + 1] * length, priority, max_tokens=2, prompt_logprobs=1)


def steps_of(engine: Engine, requests: list[Request]) -> list[set[str]]:
    """Who gained tokens, by step. Every answer is checked."""
    steps, outputs = [], {}
    while engine.has_work():
        found = engine.step()
        engine.check_integrity()
        steps.append({output.request_id for output in found if output.token_ids})
        for output in found:
            outputs.setdefault(output.request_id, []).append(output)
    for one in requests:
        assert tokens_of(outputs[one.request_id]) == naive(one)
        if one.params.prompt_logprobs is not None:
            assert outputs[one.request_id][0].prompt_logprobs == naive_prompt_logprobs(one)
    return steps


def test_scored_prompts_share_the_rows_in_their_order_and_hold_up_nobody() -> None:
    engine = toy_engine(max_num_seqs=4, prompt_rows=4, num_blocks=64)
    requests = [
        request("streams", [1, 2], max_tokens=30),
        scored("a", 21),
        scored("b", 21),
        request("behind", [3, 4, 5], max_tokens=3),
    ]
    for one in requests:
        engine.add(one)
    steps = steps_of(engine, requests)
    assert all("streams" in step for step in steps[:30])
    assert [n for n, step in enumerate(steps) if "behind" in step] == [0, 1, 2]
    # 20 rows each, 4 a step: the 5th step has the last of the first prompt's and draws from it
    assert [n for n, step in enumerate(steps) if "a" in step] == [4, 5]
    assert [n for n, step in enumerate(steps) if "b" in step] == [9, 10]


def test_what_a_chunk_leaves_of_the_rows_goes_to_the_next_prompt() -> None:
    engine = toy_engine(max_num_seqs=4, prompt_rows=8)
    requests = [scored("a", 7), scored("b", 7), scored("c", 1)]
    for one in requests:
        engine.add(one)
    steps = steps_of(engine, requests)
    assert steps[0] == {"a", "c"}, "6 rows, 2 of the 6 of the next, and a prompt of one token needs none"
    assert "b" in steps[1]


def test_nobody_makes_room_for_what_waits_for_rows() -> None:
    """A more important prompt that cannot run preempts nobody, or somebody else would take the place at once."""
    engine = toy_engine(max_num_seqs=2, prompt_rows=2)
    first = [scored("a", 30), request("late", [5, 6], priority=2, max_tokens=25)]
    for one in first:
        engine.add(one)
    engine.step()
    urgent = scored("b", 9, priority=1)
    engine.add(urgent)
    for _ in range(10):
        engine.step()
        assert {s.request.request_id for s in engine.scheduler.running} == {"a", "late"}
    assert engine.stats()[PREEMPTIONS] == 0
    run_to_end(engine)
    assert engine.stats()[PREEMPTIONS] == 1, "once there are rows, it takes the place of the less important one"


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, 64 + DRAFTED_ROWS["cuda"] + PROMPT_ROWS),
        ({"speculative_tokens": 0}, 64 + PROMPT_ROWS),
        ({"max_num_seqs": 100, "speculative_tokens": 4}, 100 + DRAFTED_ROWS["cuda"] + PROMPT_ROWS),
        ({"max_num_batched_tokens": 128}, 128),
        ({"max_num_batched_tokens": 16, "max_num_seqs": 32}, 32),
    ],
)
def test_memory_is_set_aside_for_as_many_rows_as_a_step_may_have(options: dict[str, int], rows: int) -> None:
    config = EngineConfig(model="x", **options)
    limits = StepLimits.on("cuda", config.max_num_seqs, config.max_num_batched_tokens, config.speculative_tokens)
    assert limits.logit_rows == rows
    small, large = (
        ModelConfig(vocab_size=size, n_positions=64, n_embd=8, n_layer=1, n_head=1, n_inner=8) for size in (1, 1001)
    )
    set_aside = activation_bytes(large, 1, config, 2) - activation_bytes(small, 1, config, 2)
    assert set_aside == 1000 * (rows * LOGIT_BYTES + min(rows, ROWS_AT_ONCE) * WORKING_BYTES)


def test_an_engine_keeps_to_the_limits_that_memory_is_set_aside_for() -> None:
    engine = toy_engine(max_num_seqs=7)
    assert engine.limits == StepLimits.on("cpu", 7, None, 0)
    assert (engine.limits.tokens, engine.limits.prompt_rows) == (BATCHED_TOKENS["cpu"], PROMPT_ROWS)


VOCABULARY = 5000


@pytest.mark.parametrize("rows", [3, ROWS_AT_ONCE, 3 * ROWS_AT_ONCE + 1])
@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0, "logit_bias": {1: 1.0}, "logprobs": 20},
        {"temperature": 1.0, "repetition_penalty": 1.2, "frequency_penalty": 0.1, "presence_penalty": 0.1},
        {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "min_p": 0.01, "min_tokens": 3, "repetition_penalty": 1.2},
    ],
)
def test_a_draw_takes_no_more_memory_than_is_set_aside(rows: int, params: dict[str, object]) -> None:
    """The logits themselves are there before; on a GPU the same tensors are made."""
    logits = torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(1))
    one = Request("r", list(range(1, 40)), SamplingParams(**params))  # type: ignore[arg-type]
    sequences = [Sequence(one, seed=n, arrival=n, limit=100) for n in range(rows)]
    limits = StepLimits(sequences=rows, tokens=rows)
    taken = logits.nbytes + peak_bytes(lambda: draw(logits, sequences, (0,)))
    assert taken <= logits_bytes(VOCABULARY, limits)


@pytest.mark.parametrize("rows", [3, 4 * ROWS_AT_ONCE])
def test_log_probabilities_of_a_prompt_take_no_more_memory_than_is_set_aside(rows: int) -> None:
    logits = torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(1))
    found = token_logprobs(logits, [5] * rows, [20] * rows)
    alone = [token_logprobs(logits[n : n + 1], [5], [20])[0] for n in range(rows)]
    assert found == alone
    taken = peak_bytes(lambda: token_logprobs(logits, [5] * rows, [20] * rows))
    assert taken <= 1.2 * min(rows, ROWS_AT_ONCE) * VOCABULARY * 4, "once the logits of a part"
