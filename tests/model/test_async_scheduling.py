"""Steps that are started before the one ahead of them has been read, on the toy network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.batch import Batch, resolve
from model.engine import Engine
from model.kernels.cuda_graphs import sizes_up_to
from model.request import Request, SamplingParams
from model.sampler import Drawn
from monitoring.metrics import ACCEPTED_DRAFT_TOKENS
from tests.support.toy_engine import EOS, naive, run_to_end, tokens_of, toy_engine


def request(request_id: str, prompt: list[int], priority: int = 0, **params: object) -> Request:
    return Request(request_id, prompt, SamplingParams(**{"temperature": 0.0, "ignore_eos": True, **params}), priority)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Starts and reads of steps, in order."""
    seen: list[str] = []
    launch, read = Engine._launch, Drawn.read

    def noting_launch(engine: Engine, drafts: bool) -> Any:
        found = launch(engine, drafts)
        if found is not None:
            seen.append("start")
        return found

    monkeypatch.setattr(Engine, "_launch", noting_launch)
    monkeypatch.setattr(Drawn, "read", lambda drawn: seen.append("read") or read(drawn))
    return seen


def test_a_step_is_started_before_the_one_ahead_of_it_is_read(events: list[str]) -> None:
    engine = toy_engine(async_scheduling=True)
    one = request("a", [1, 2, 3], max_tokens=4)
    engine.add(one)
    assert tokens_of(run_to_end(engine)["a"]) == naive(one)
    assert events == ["start", "start", "read", "start", "read", "start", "read", "read"]


def test_an_awaited_token_is_a_row_of_what_the_step_before_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = toy_engine(async_scheduling=True, max_num_batched_tokens=8, max_num_seqs=4)
    batches: list[Batch] = []
    run = engine.executor.run
    monkeypatch.setattr(engine.executor, "run", lambda batch: batches.append(batch) or run(batch))
    for name, prompt in (("a", [1, 2, 3]), ("b", [4, 5]), ("c", [6] * 9)):
        engine.add(request(name, prompt, max_tokens=4))
    engine.step()  # a, b, and the first 3 tokens of c
    a, b, c = (engine.sequences[name] for name in "abc")
    assert [s.awaited for s in (a, b, c)] == [0, 1, None]
    assert [s.tokens for s in (a, b, c)] == [list(s.request.prompt_ids) for s in (a, b, c)]
    assert [(s.length, s.num_output, s.pending) for s in (a, b, c)] == [(4, 1, 1), (3, 1, 1), (9, 0, 6)]
    assert batches[0].drawn_rows is None
    engine.step()
    assert batches[1].tokens.tolist() == [0, 0, *[6] * 6]
    assert batches[1].drawn_rows is not None
    assert batches[1].drawn_rows.tolist() == [0, 1, *[-1] * 6]
    assert [len(s.tokens) - s.prompt_length for s in (a, b, c)] == [1, 1, 0]
    assert [s.awaited for s in (a, b, c)] == [0, 1, 2]
    run_to_end(engine)
    assert not any((batch.tokens < 0).any() for batch in batches)


def test_what_is_awaited_is_taken_from_what_was_drawn() -> None:
    tokens, rows, drawn = torch.tensor([7, 0, 0, 8]), torch.tensor([-1, 1, 0, -1]), torch.tensor([30, 31])
    assert resolve(tokens, rows, drawn).tolist() == [7, 31, 30, 8]


@pytest.mark.parametrize("caching", [False, True])
def test_a_sequence_that_is_preempted_while_it_awaits_a_token_goes_on_with_it(caching: bool) -> None:
    engine = toy_engine(num_blocks=16, async_scheduling=True, enable_prefix_caching=caching, max_num_seqs=1)
    late = request("late", [1, 2, 3], priority=1, max_tokens=9)
    engine.add(late)
    outputs = {"late": engine.step() + engine.step()}
    sequence = engine.sequences["late"]
    assert sequence.awaited == 0
    urgent = request("urgent", [4, 5], max_tokens=3)
    engine.add(urgent)
    outputs["late"] += engine.step()  # reads what was awaited, though the sequence has left the batch
    assert sequence in engine.scheduler.waiting
    assert sequence.awaited is None
    assert sequence.num_output == 2
    run_to_end(engine, outputs)
    assert tokens_of(outputs["late"]) == naive(late)
    assert tokens_of(outputs["urgent"]) == naive(urgent)


def test_no_step_is_run_for_a_sequence_whose_last_token_is_being_drawn() -> None:
    computed = []
    for async_scheduling in (False, True):
        engine = toy_engine(async_scheduling=async_scheduling, max_model_len=32)
        engine.add(request("limit", [1, 2, 3], max_tokens=5))
        engine.add(request("window", [1] * 30, max_tokens=50))
        run_to_end(engine)
        computed.append(engine.executor.computed_tokens)  # type: ignore[attr-defined]
    assert computed[0] == computed[1]


@pytest.mark.parametrize(
    "params",
    [
        {"repetition_penalty": 1.3},
        {"frequency_penalty": 0.5, "temperature": 1.0, "seed": 4},
        {"presence_penalty": 1.0},
        {"prompt_logprobs": 1},
    ],
)
def test_where_the_next_step_depends_on_the_tokens_they_are_read_first(
    events: list[str], params: dict[str, object]
) -> None:
    found = []
    for async_scheduling in (False, True):
        events.clear()
        engine = toy_engine(async_scheduling=async_scheduling)
        engine.add(request("a", [1, 2, 3, 1, 2], max_tokens=8, **params))
        engine.add(request("b", [1, 2], max_tokens=3))
        found.append({name: tokens_of(outputs) for name, outputs in run_to_end(engine).items()})
    assert found[0] == found[1]
    if "prompt_logprobs" not in params:  # of the first step alone
        assert events == ["start", "read"] * 8


def test_drafts_are_checked_as_ever() -> None:
    one = request("a", [1, 2, 4] * 5, max_tokens=40)
    engine = toy_engine(async_scheduling=True, speculative_tokens=6)
    engine.add(one)
    assert tokens_of(run_to_end(engine)["a"]) == naive(one)
    assert engine.stats()[ACCEPTED_DRAFT_TOKENS] > 0


def test_what_is_aborted_while_its_token_is_drawn_is_forgotten() -> None:
    engine = toy_engine(async_scheduling=True)
    engine.add(request("a", [1, 2, 3], max_tokens=10))
    assert engine.step() == []
    engine.abort("a")
    assert engine.pool.num_used == 0
    again = request("a", [4, 5], max_tokens=3)
    engine.add(again)  # the name is free at once, and what is still drawn is not the new one's
    assert tokens_of(run_to_end(engine)["a"]) == naive(again)


def test_a_sequence_that_ends_by_itself_leaves_nothing_wrong_in_the_cache() -> None:
    prompt = next(
        [n, m] for n in range(1, 50) for m in range(1, 50) if EOS in naive(request("x", [n, m], max_tokens=9))[2:8]
    )
    ends = request("ends", prompt, max_tokens=30, ignore_eos=False)
    engine = toy_engine(async_scheduling=True, num_blocks=16)
    engine.add(ends)
    output = tokens_of(run_to_end(engine)["ends"])
    assert output == naive(ends)
    assert output[-1] == EOS
    follow_up = request("next", [*prompt, *output, 7, 8, 9, 7, 8, 9], max_tokens=4)
    engine.add(follow_up)
    outputs = run_to_end(engine)["next"]
    assert tokens_of(outputs) == naive(follow_up)
    assert outputs[0].cached_tokens % engine.pool.block_size == 0 < outputs[0].cached_tokens


def test_log_probabilities_come_with_their_tokens() -> None:
    found = []
    for async_scheduling in (False, True):
        engine = toy_engine(async_scheduling=async_scheduling)
        engine.add(request("a", [1, 2, 3], max_tokens=5, logprobs=3))
        engine.add(request("b", [4, 2], max_tokens=7))
        engine.add(request("c", [5], max_tokens=6, logprobs=0, temperature=1.0, seed=3))
        found.append(
            {name: [(o.token_ids, o.logprobs) for o in outputs] for name, outputs in run_to_end(engine).items()}
        )
    assert found[0] == found[1]


def test_every_step_is_timed_once() -> None:
    engine = toy_engine(async_scheduling=True)
    engine.add(request("a", [1, 2, 3], max_tokens=4))
    sizes = []
    while engine.has_work():
        engine.step()
        if (timing := engine.timing) is not None:
            sizes.append((timing.sequences, timing.tokens))
            assert timing.schedule + timing.forward + timing.sample == pytest.approx(timing.seconds)
    assert sizes == [(1, 3), (1, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize("largest", [1, 3, 8, 13, 64, 100, 256])
def test_recorded_sizes_waste_little(largest: int) -> None:
    sizes = sizes_up_to(largest)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == largest
    for count in range(1, largest + 1):
        size = next(s for s in sizes if s >= count)
        assert size - count < max(2, size / 2)
    assert len(sizes) < 3 + 2 * torch.tensor(float(largest)).log2().ceil()
