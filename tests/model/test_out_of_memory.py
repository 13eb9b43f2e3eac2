"""A step that runs out of memory is undone, and costs its newest request alone."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.engine import Engine
from model.executor import Executor
from model.request import Output, Request, SamplingParams
from model.scheduling.kv_cache import chain_hashes
from monitoring.metrics import ENGINE_STEPS, OUT_OF_MEMORY, PREFIX_CACHE_HITS, PREFIX_CACHE_QUERIES
from tests.support.loads import Arrival, arrivals, engine_options, run_load
from tests.support.out_of_memory import PLACES, OutOfMemory
from tests.support.toy_engine import naive, run_to_end, tokens_of, toy_engine

PLACE = pytest.mark.parametrize("place", PLACES)
ASYNC = pytest.mark.parametrize("async_scheduling", [False, True])


def request(request_id: str, prompt: list[int], priority: int = 0, **params: object) -> Request:
    return Request(request_id, prompt, SamplingParams(**{"temperature": 0.0, "ignore_eos": True, **params}), priority)


def failures_of(outputs: dict[str, list[Output]]) -> set[str]:
    """Who ended so; nothing came behind it."""
    failed = {o.request_id for found in outputs.values() for o in found if o.failure is not None}
    for request_id in failed:
        *before, last = outputs[request_id]
        assert last == Output(request_id, finish_reason="abort", failure="out_of_memory")
        assert not any(o.finish_reason for o in before)
    return failed


def check_findable_blocks(engine: Engine, sequences: list[list[int]]) -> None:
    """What can be found by hash holds the tokens that the hash says. sequences: all that may be in the cache."""
    size, slots = engine.pool.block_size, cast(Any, engine.executor).slots
    expected = {
        value: (tokens[n * size : (n + 1) * size], list(range(n * size, (n + 1) * size)))
        for tokens in sequences
        for n, value in enumerate(chain_hashes(tokens, size))
    }
    for block, value in engine.pool._hash_of.items():
        held = slots[block * size : (block + 1) * size].T.tolist()
        assert tuple(held) == expected[value], "a block holds something else than can be found in it"


@given(
    arrivals=arrivals,
    options=engine_options,
    failures=st.dictionaries(st.integers(0, 50), st.sampled_from(PLACES), min_size=1, max_size=8),
)
@settings(max_examples=150, deadline=None)
def test_any_load_loses_the_newest_request_of_each_step_that_fails_and_nothing_else(
    arrivals: list[Arrival], options: dict[str, Any], failures: dict[int, str]
) -> None:
    """Prefixes are shared, prompts run in chunks, drafts are checked, steps are in flight, blocks are scarce."""
    engine = toy_engine(**options)
    sequences = [[*one.prompt, *naive(one.request())] for one in arrivals]
    with OutOfMemory(engine, failures) as out_of_memory:
        load = run_load(engine, arrivals, lambda: check_findable_blocks(engine, sequences))
    assert failures_of(load.outputs) == set(out_of_memory.ended)
    load.check(without=frozenset(out_of_memory.ended))
    assert engine.stats()[OUT_OF_MEMORY] == len(out_of_memory.ended) == cast(Any, engine.executor).freed


@PLACE
@ASYNC
def test_the_others_go_on_as_if_nothing_had_been(place: str, async_scheduling: bool) -> None:
    """The fourth step has decodes, a chunk of a prompt, and a prompt whose log-probabilities are wanted."""
    engine = toy_engine(async_scheduling=async_scheduling, max_num_batched_tokens=12, max_num_seqs=4)
    requests = [
        request("a", [1, 2, 3], max_tokens=9),
        request("b", [4, 5], max_tokens=9, seed=3, temperature=1.0, logprobs=1),
        request("c", list(range(1, 30)), max_tokens=4, prompt_logprobs=1),
        request("newest", [7] * 30, max_tokens=4),
    ]
    for one in requests:
        engine.add(one)
    undisturbed = run_to_end(engine)
    again = toy_engine(async_scheduling=async_scheduling, max_num_batched_tokens=12, max_num_seqs=4)
    for one in requests:
        again.add(one)
    with OutOfMemory(again, {3: place}) as out_of_memory:
        outputs = run_to_end(again)
    (failed,) = failures_of(outputs)
    assert [failed] == out_of_memory.ended
    for one in requests:
        if one.request_id != failed:
            assert told(outputs[one.request_id]) == told(undisturbed[one.request_id])


def told(outputs: list[Output]) -> tuple[object, ...]:
    return (
        tokens_of(outputs),
        [o.logprobs for o in outputs if o.logprobs],
        outputs[0].prompt_logprobs,
        outputs[-1].finish_reason,
    )


@pytest.mark.parametrize("priority", [0, -1])
def test_siblings_of_the_step_wait_again_and_share_what_is_then_computed(priority: int) -> None:
    """priority: of the newest. A better one runs first, so that the others share the blocks that go with it."""
    engine = toy_engine()
    prompt = list(range(1, 18))
    for number in range(4):
        engine.add(request(str(number), prompt, priority if number == 3 else 0, max_tokens=2))
    with OutOfMemory(engine, {0: "forward"}):
        assert [o.request_id for o in engine.step()] == ["3"]
    assert (len(engine.scheduler.waiting), len(engine.scheduler.running)) == (3, 0)
    assert (engine.pool.num_used, engine.pool.num_cached) == (0, 0)
    assert engine.stats()[ENGINE_STEPS] == 0
    assert engine.stats().oldest_waiting_seconds[1] > 0, "no step has run them"
    outputs = run_to_end(engine)
    assert [outputs[str(n)][0].cached_tokens for n in range(3)] == [0, 16, 16]
    assert engine.stats()[PREFIX_CACHE_QUERIES] == 3 * 17
    assert engine.stats()[PREFIX_CACHE_HITS] == 2 * 16
    assert all(tokens_of(outputs[str(n)]) == naive(request("", prompt, max_tokens=2)) for n in range(3))


def test_what_earlier_steps_wrote_can_still_be_found() -> None:
    engine = toy_engine(max_num_batched_tokens=8, max_num_seqs=2)
    long = request("long", list(range(1, 14)), max_tokens=2)
    engine.add(long)
    engine.step()
    engine.add(request("newest", [9, 9], max_tokens=2))
    with OutOfMemory(engine, {0: "forward"}):
        engine.step()
    assert engine.pool.num_cached == 2, "the 8 tokens of the first step"
    sequence = engine.sequences["long"]
    assert (sequence.computed, sequence.published) == (8, 2)
    assert tokens_of(run_to_end(engine)["long"]) == naive(long)


@PLACE
@ASYNC
def test_the_next_newest_ends_if_memory_runs_out_again(place: str, async_scheduling: bool) -> None:
    engine = toy_engine(async_scheduling=async_scheduling)
    # the one of the best priority came last
    for number in range(4):
        engine.add(request(str(number), [number + 1] * 5, priority=-number, max_tokens=9))
    engine.step()
    with OutOfMemory(engine, dict.fromkeys(range(4), place)) as out_of_memory:
        outputs = run_to_end(engine)
    assert out_of_memory.ended == ["3", "2", "1", "0"]
    assert failures_of(outputs) == {"0", "1", "2", "3"}
    after = request("after", [1] * 5, max_tokens=6)
    engine.add(after)
    assert tokens_of(run_to_end(engine)["after"]) == naive(after)


@PLACE
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError("Unable to allocate 3.00 GiB for an array"),
    ],
    ids=["cublas", "pinned", "cpu", "python"],
)
def test_whatever_says_that_memory_ran_out_is_the_same(error: Exception, place: str) -> None:
    engine = toy_engine()
    engine.add(request("a", [1, 2, 3], max_tokens=4))
    engine.add(request("newest", [4, 5], max_tokens=4, prompt_logprobs=0))
    with OutOfMemory(engine, {0: place}, error):
        outputs = run_to_end(engine)
    assert failures_of(outputs) == {"newest"}
    assert tokens_of(outputs["a"]) == naive(request("a", [1, 2, 3], max_tokens=4))


@PLACE
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        ValueError("out of memory"),
    ],
    ids=["access", "launch", "ours", "no-device"],
)
def test_with_any_other_error_the_engine_ends_at_once(error: Exception, place: str) -> None:
    """After most errors of CUDA whatever follows fails, or is wrong."""
    engine = toy_engine()
    engine.add(request("a", [1, 2, 3], prompt_logprobs=0))
    with OutOfMemory(engine, {0: place}, error), pytest.raises(type(error)) as raised:
        engine.step()
    assert raised.value is error


def test_with_more_ranks_the_engine_ends() -> None:
    engine = toy_engine()
    cast(Any, engine.executor).group.size = 2
    engine.add(request("a", [1, 2]))
    with OutOfMemory(engine, {0: "draw"}), pytest.raises(torch.OutOfMemoryError):
        engine.step()


def test_memory_is_given_back_when_the_tensors_of_the_failed_step_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = toy_engine()
    executor = cast(Any, engine.executor)
    run, logits, alive = executor.run, [], []

    def noting_run(batch: Any) -> torch.Tensor:
        found: torch.Tensor = run(batch)
        logits.append(weakref.ref(found))
        return found

    monkeypatch.setattr(executor, "run", noting_run)
    monkeypatch.setattr(executor, "free_memory", lambda: alive.append(logits[0]()))
    engine.add(request("a", [1, 2]))
    with OutOfMemory(engine, {0: "draw"}):
        engine.step()
    assert alive == [None]


@pytest.mark.parametrize(("device", "calls"), [("cuda", 1), ("cpu", 0)])
def test_the_allocator_of_a_gpu_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch, device: str, calls: int) -> None:
    called: list[None] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append(None))
    runner = SimpleNamespace(device=torch.device(device))
    Executor.free_memory(cast(Executor, SimpleNamespace(runner=runner)))
    assert len(called) == calls
