"""Who loses its blocks begins again: what is told and counted of its start is so once. And who has to make room."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from model.engine import Engine
from model.request import Output, Request, SamplingParams
from model.scheduling import scheduler
from monitoring.metrics import PREEMPTIONS, PREFIX_CACHE_HITS, PREFIX_CACHE_QUERIES
from tests.support.toy_engine import naive, naive_prompt_logprobs, run_to_end, tokens_of, toy_engine


def request(request_id: str, prompt: list[int], priority: int = 0, **params: object) -> Request:
    return Request(request_id, prompt, SamplingParams(**{"temperature": 0.0, "ignore_eos": True, **params}), priority)


def running(engine: Engine) -> set[str]:
    return {s.request.request_id for s in engine.scheduler.running}


def interrupted(engine: Engine, steps: int, after_step: Callable[[], None] = lambda: None) -> dict[str, list[Output]]:
    """Run what is there for some steps, then an urgent request in its place, and then all to the end."""
    outputs: dict[str, list[Output]] = {}
    for _ in range(steps):
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        after_step()
    engine.add(request("urgent", [9, 9, 9], priority=-1, max_tokens=3))
    run_to_end(engine, outputs, after_step)
    assert engine.stats()[PREEMPTIONS] == 1
    return outputs


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_of_a_prompt_whose_prefill_begins_again_each_token_is_scored_once(chunks: int) -> None:
    engine = toy_engine(max_num_seqs=1, max_num_batched_tokens=4)
    one = request("scored", list(range(1, 21)), max_tokens=2, prompt_logprobs=2)
    engine.add(one)
    outputs = interrupted(engine, chunks)["scored"]
    assert outputs[0].prompt_logprobs == naive_prompt_logprobs(one)
    assert tokens_of(outputs) == naive(one)


@pytest.mark.parametrize("steps", [1, 4], ids=["prefilling", "decoding"])
def test_a_start_counts_once(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time in the queue ends with its first step, whatever becomes of it then."""
    engine = toy_engine(max_num_seqs=1, max_num_batched_tokens=8)
    prompt = list(range(1, 25))
    engine.add(request("before", prompt[:9], max_tokens=1))
    run_to_end(engine)
    before = engine.stats()
    now = [100]
    monkeypatch.setattr(scheduler, "time", SimpleNamespace(monotonic=lambda: now[0]))
    one = request("a", prompt, max_tokens=6)
    engine.add(one)
    engine.sequences["a"].arrived_at = 97
    outputs = interrupted(engine, steps, lambda: now.append(now.pop() + 10))["a"]
    assert [output.queue_seconds for output in outputs] == [3, 0, 0, 0, 0, 0]
    assert outputs[0].cached_tokens == 8
    assert tokens_of(outputs) == naive(one)
    stats = engine.stats()
    assert stats[PREFIX_CACHE_QUERIES] - before[PREFIX_CACHE_QUERIES] == len(prompt) + 3, "the urgent one's too"
    assert stats[PREFIX_CACHE_HITS] - before[PREFIX_CACHE_HITS] == 8


@pytest.mark.parametrize(("prompt", "admitted"), [(56, True), (57, False)])
def test_who_is_admitted_leaves_a_block_for_each_that_runs(prompt: int, admitted: bool) -> None:
    """Or those would be preempted at once, for want of the block that their next tokens go to."""
    engine = toy_engine(num_blocks=16, block_size=4, max_model_len=64, max_num_seqs=4)
    engine.add(request("runs", [1, 2, 3], max_tokens=8))
    engine.step()
    assert engine.pool.num_free == 15
    engine.add(request("comes", [5] * prompt, max_tokens=1))
    plan = engine.scheduler.schedule()
    assert ("comes" in running(engine)) == admitted
    assert engine.pool.num_free == (1 if admitted else 15)
    engine.scheduler.started(plan)


def test_nobody_is_preempted_by_an_admission() -> None:
    engine = toy_engine(num_blocks=16, block_size=4, max_model_len=64, max_num_seqs=4)
    requests = [request("first", [1, 2, 3], max_tokens=8), request("second", [5] * 58, max_tokens=1)]
    for one in requests:
        engine.add(one)
        engine.step()
    outputs = run_to_end(engine)
    assert engine.stats()[PREEMPTIONS] == 0
    assert tokens_of(outputs["second"]) == naive(requests[1])


def test_nobody_is_preempted_while_the_last_blocks_suffice() -> None:
    """Two of two blocks each, which they come to need in one step: the second one takes the last that is free."""
    engine = toy_engine(num_blocks=4, block_size=4, max_model_len=16, max_num_seqs=2)
    requests = [request(name, [token] * 3, max_tokens=4) for token, name in enumerate("ab", start=5)]
    for one in requests:
        engine.add(one)
    free: list[int] = []
    outputs = run_to_end(engine, after_step=lambda: free.append(engine.pool.num_free))
    assert min(free) == 0
    assert engine.stats()[PREEMPTIONS] == 0
    assert [tokens_of(outputs[one.request_id]) for one in requests] == [naive(one, 16) for one in requests]


@pytest.mark.parametrize(("prompt", "staying"), [(40, 3), (41, 2), (49, 1), (57, 0)])
def test_as_many_make_room_as_leave_a_block_for_each_that_stays(prompt: int, staying: int) -> None:
    """Of 16 blocks each of three that run has one; 10 for the urgent prompt and a second for each of them are all."""
    engine = toy_engine(num_blocks=16, block_size=4, max_model_len=64, max_num_seqs=4)
    for number in range(3):
        engine.add(request(f"runs {number}", [number + 1] * 3, priority=5, max_tokens=8))
    engine.step()
    engine.add(request("urgent", [9] * prompt, max_tokens=1))
    assert "urgent" in {output.request_id for output in engine.step()}
    assert running(engine) == {f"runs {number}" for number in range(staying)}
    assert engine.stats()[PREEMPTIONS] == 3 - staying
    run_to_end(engine)


def test_a_prompt_that_goes_on_takes_the_blocks_of_who_is_less_important() -> None:
    """It is not left with those that happen to be free: its second chunk is as long as the step."""
    engine = toy_engine(num_blocks=16, block_size=4, max_model_len=64, max_num_seqs=4, max_num_batched_tokens=32)
    less = request("less", [3] * 20, priority=5, max_tokens=8)
    engine.add(less)
    engine.step()
    urgent = request("urgent", [9] * 46, max_tokens=3)
    engine.add(urgent)
    engine.step()
    assert (running(engine), engine.stats()[PREEMPTIONS]) == ({"less", "urgent"}, 0)
    assert engine.pool.num_free < 4
    outputs = {output.request_id: [output] for output in engine.step()}
    assert (running(engine), engine.stats()[PREEMPTIONS]) == ({"urgent"}, 1)
    run_to_end(engine, outputs)
    assert tokens_of(outputs["urgent"]) == naive(urgent)
