"""What a draft model's passes take is in every decision: who drafts, whom it catches up with, how long steps get."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from model import drafter
from model.engine import Engine
from model.request import Request, SamplingParams
from model.scheduling.draft_length import TRY_AGAIN, DraftLength
from model.scheduling.pace import StepPace
from model.scheduling.speculation import Speculator
from monitoring.metrics import (
    ACCEPTED_MODEL_DRAFT_TOKENS,
    DRAFTED_STEP_TIME,
    ENGINE_STEPS,
    MODEL_DRAFT_TOKENS,
    PLAIN_STEP_TIME,
)
from tests.support.toy_engine import naive, run_to_end, tokens_of, toy_engine, toy_logits


@pytest.fixture(autouse=True)
def no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Speculator, "draft", lambda *_: [])
    monkeypatch.setattr(Speculator, "promises", lambda *_: False)


def request(name: object, prompt: list[int], max_tokens: int) -> Request:
    return Request(str(name), prompt, SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=max_tokens))


def engine_with(cost: float, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Engine:
    """Whose passes cost that share of a step, whatever they take of the toy's."""
    monkeypatch.setattr(DraftLength, "learn_cost", lambda *_: None)
    options = {"max_model_len": 2048, "speculative_tokens": 8, "max_num_seqs": 16, **options}
    engine = toy_engine(4000, **options, draft=toy_logits)
    assert engine.drafter is not None
    engine.drafter.length._costs[0] = cost
    return engine


def passes(engine: Engine) -> list[Any]:
    assert engine.drafter is not None
    found: list[Any] = engine.drafter._model.network.passes  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(("sequences", "drafts"), [(4, True), (11, False)])
def test_steps_are_read_at_once_where_the_model_drafts_in_them_and_run_ahead_where_it_has_no_room_to_pay(
    sequences: int, drafts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_with(0.1, monkeypatch, async_scheduling=True)
    requests = [request(i, [i + 1, 2, 3], 50) for i in range(sequences)]
    for one in requests:
        engine.add(one)
    outputs: dict[str, list[Any]] = {}
    ahead, steps = 0, 0
    while len(engine.sequences) == sequences:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        ahead += engine._in_flight is not None
        steps += 1
    run_to_end(engine, outputs)
    assert all(tokens_of(outputs[one.request_id]) == naive(one, 2048) for one in requests)
    assert (len(passes(engine)) > steps // 2) == drafts
    assert (ahead > steps - 5) == (not drafts)


@pytest.mark.parametrize("cost", [0.07, 1.0, 5.0])
def test_a_long_prompt_with_a_short_answer_is_not_drafted_for(cost: float, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_with(cost, monkeypatch)
    for number in range(24):
        engine.add(request(number, [number + 1] * 1000, 8))
        run_to_end(engine)
    assert engine.stats()[ENGINE_STEPS] > 2 * TRY_AGAIN
    assert not passes(engine)


def test_where_drafts_do_not_pay_those_that_are_tried_end_with_their_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where each of these ends before it comes to a draft."""
    monkeypatch.setitem(drafter.DRAFT_PASS_TOKENS, "cpu", 70)
    engine = engine_with(5.0, monkeypatch)
    for number in range(100):
        engine.add(request(number, [1 + (number * 7 + i) % 40 for i in range(100)], 8))
        run_to_end(engine)
    steps = engine.stats()[ENGINE_STEPS]
    assert steps > 10 * TRY_AGAIN
    assert len(passes(engine)) <= steps / TRY_AGAIN * 2
    engine.add(request("long", [1, 2, 3], 330))
    run_to_end(engine)
    assert 4 <= engine.stats()[MODEL_DRAFT_TOKENS] <= 8, "it is still tried"


def test_a_prompt_is_caught_up_with_where_its_answer_repays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_with(0.05, monkeypatch)
    one = request("a", [1 + i % 40 for i in range(600)], 300)
    engine.add(one)
    outputs = run_to_end(engine)["a"]
    steps = int(engine.stats()[ENGINE_STEPS])
    assert tokens_of(outputs) == naive(one, 2048)
    assert steps < 100
    assert engine.stats()[ACCEPTED_MODEL_DRAFT_TOKENS] == engine.stats()[MODEL_DRAFT_TOKENS] > 200


def test_the_time_of_catching_up_is_weighed_with_that_of_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(drafter.DRAFT_PASS_TOKENS, "cpu", 8)
    engine = engine_with(0.01, monkeypatch)
    engine.add(request("plain", [5, 6, 7], 2))  # a step of one sequence, to compare with
    monkeypatch.setattr(DraftLength, "share", lambda length, candidates, *_: [0] * len(candidates))
    run_to_end(engine)
    monkeypatch.setattr(DraftLength, "share", lambda length, candidates, *_: [1] * len(candidates))
    engine.add(request("a", list(range(1, 41)), 5))
    found = []
    for _ in range(4):
        engine.step()
        found.append((engine.stats()[DRAFTED_STEP_TIME], engine.stats()[PLAIN_STEP_TIME]))
    assert engine.stats()[MODEL_DRAFT_TOKENS] == 0, "it has only caught up"
    assert found[0] == (0, 0)
    assert found[0] < found[1] < found[2] < found[3]
    assert found[1][1] > 0


def test_catching_up_in_a_step_with_a_prompt_is_weighed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(drafter.DRAFT_PASS_TOKENS, "cpu", 8)
    monkeypatch.setattr(DraftLength, "share", lambda length, candidates, *_: [1] * len(candidates))
    engine = engine_with(0.01, monkeypatch)
    engine.add(request("a", list(range(1, 41)), 9))
    engine.step()
    engine.add(request("b", list(range(9, 40)), 9))
    engine.step()
    assert engine.stats()[DRAFTED_STEP_TIME] > 0 == engine.stats()[PLAIN_STEP_TIME]


def test_a_pass_that_draws_nothing_is_waited_for_so_that_its_time_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(drafter.DRAFT_PASS_TOKENS, "cpu", 8)
    monkeypatch.setattr(DraftLength, "share", lambda length, candidates, *_: [1] * len(candidates))
    engine = engine_with(0.01, monkeypatch)
    waited: list[int] = []
    monkeypatch.setattr(drafter, "wait_for", lambda _: waited.append(len(passes(engine))))
    engine.add(request("a", list(range(1, 26)), 9))
    run_to_end(engine)
    assert waited == [1, 2, 3], "the fourth draws"


def test_where_memory_is_too_little_there_are_no_drafts_for_some_time_and_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_with(0.05, monkeypatch)
    assert engine.drafter is not None
    network = engine.drafter._model.network
    run, enough = network.run, False

    def sometimes(batch: Any) -> Any:
        if not enough:
            raise torch.OutOfMemoryError("no memory for drafts")
        return run(batch)

    monkeypatch.setattr(network, "run", sometimes)
    one = request("a", [1, 2, 3], 220)
    engine.add(one)
    with caplog.at_level(logging.WARNING):
        outputs = run_to_end(engine)
    assert tokens_of(outputs["a"]) == naive(one, 2048)
    assert engine.executor.freed == 3, "after 0, 64 and 192 steps"  # type: ignore[attr-defined]
    assert caplog.text.count("no memory for drafts") == 1
    enough = True
    engine.add(request("b", [1, 2, 3], 350))
    run_to_end(engine)
    assert engine.stats()[ACCEPTED_MODEL_DRAFT_TOKENS] == engine.stats()[MODEL_DRAFT_TOKENS] > 0


def test_prompts_beside_decodes_leave_time_for_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_with(0.05, monkeypatch, target_inter_token_latency_s=0.1)
    assert engine.drafter is not None
    engine.drafter.length.step_seconds = 0.1
    seen: list[tuple[int, float]] = []
    tokens = StepPace.prompt_tokens

    def noting(pace: StepPace, decoding: list[Any], prompts: list[Any]) -> int | None:
        seen.append((max((len(s.draft) for s in decoding), default=0), pace.before))
        return tokens(pace, decoding, prompts)

    monkeypatch.setattr(StepPace, "prompt_tokens", noting)
    engine.add(request("decodes", [1, 2, 3], 100))
    engine.step()
    engine.step()
    engine.add(request("prompt", [1 + i % 40 for i in range(900)], 2))
    while "prompt" in engine.sequences:
        engine.step()
    drafted = [each for each in seen if each[0] > 1]
    assert drafted
    assert all(before == pytest.approx(length * 0.05 * 0.1) for length, before in drafted)
