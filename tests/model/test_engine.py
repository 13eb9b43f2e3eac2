"""The engine's rules, one by one, on the toy network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from model import engine as engine_module
from model.request import Request, SamplingParams
from monitoring.metrics import (
    GENERATION_TOKENS,
    PREEMPTIONS,
    PREFIX_CACHE_HITS,
    PREFIX_CACHE_QUERIES,
    PROMPT_TOKENS,
)
from tests.support.toy_engine import EOS, naive, run_to_end, tokens_of, toy_engine, toy_logits


def request(request_id: str, prompt: list[int], priority: int = 0, **params: object) -> Request:
    return Request(request_id, prompt, SamplingParams(**{"temperature": 0.0, "ignore_eos": True, **params}), priority)


def test_a_request_alone():
    engine = toy_engine()
    one = request("a", [3, 1, 4, 1, 5], max_tokens=7)
    engine.add(one)
    engine.sequences["a"].arrived_at -= 100
    outputs = run_to_end(engine)["a"]
    assert tokens_of(outputs) == naive(one)
    assert [o.finish_reason for o in outputs] == [None] * 6 + ["length"]
    assert 100 <= outputs[0].queue_seconds < 1000
    assert [o.queue_seconds for o in outputs[1:]] == [0] * 6


def test_decodes_and_prefill_chunks_share_a_step():
    engine = toy_engine(max_num_batched_tokens=8, max_num_seqs=4)
    engine.add(request("short", [1, 2], max_tokens=20))
    engine.step()
    engine.add(request("long", list(range(1, 31)), max_tokens=2))
    plan = engine.scheduler.schedule
    seen = []
    engine.scheduler.schedule = lambda: seen.append(plan()) or seen[-1]
    engine.step()
    assert [(s.sequence.request.request_id, s.count) for s in seen[0]] == [("short", 1), ("long", 7)]


def test_the_prompt_of_an_earlier_request_comes_from_the_cache_with_its_output():
    engine = toy_engine()
    first = request("a", list(range(1, 10)), max_tokens=12)
    engine.add(first)
    output = tokens_of(run_to_end(engine)["a"])
    follow_up = request("b", [*first.prompt_ids, *output, 5], max_tokens=3)
    engine.add(follow_up)
    outputs = run_to_end(engine)["b"]
    # 9 + 12 tokens, of which the last was sampled and never computed: 20 in cache, 5 full blocks of 4
    assert outputs[0].cached_tokens == 20
    assert tokens_of(outputs) == naive(follow_up)
    assert engine.stats()[PREFIX_CACHE_HITS] == 20


def test_what_a_given_up_prompt_had_computed_is_found_by_the_next():
    """Even in the middle of a prefill in chunks: the keystroke that came meanwhile begins where it ended."""
    engine = toy_engine(max_num_batched_tokens=10, max_num_seqs=4)
    prompt = list(range(1, 41))
    engine.add(request("a", prompt))
    engine.step()
    engine.step()
    engine.abort("a")
    engine.check_integrity()
    engine.add(request("b", [*prompt, 7], max_tokens=2))
    outputs = run_to_end(engine)["b"]
    assert outputs[0].cached_tokens == 20  # two chunks of 10, in blocks of 4
    assert engine.executor.computed_tokens == 20 + (41 - 20) + 1


def test_a_prompt_in_pieces_counts_once():
    engine = toy_engine()
    prompt = list(range(1, 42))
    for number, end in enumerate((16, 32)):
        piece = request(f"piece {number}", prompt[:end], max_tokens=1)
        engine.add(msgspec.structs.replace(piece, is_piece=True))
        found = run_to_end(engine)[f"piece {number}"]
        assert found[0].cached_tokens == 16 * number
    engine.add(msgspec.structs.replace(request("whole", prompt, max_tokens=3), ahead=32))
    outputs = run_to_end(engine)["whole"]
    assert outputs[0].cached_tokens == 0
    stats = engine.stats()
    assert (stats[PROMPT_TOKENS], stats[GENERATION_TOKENS]) == (41, 3)
    assert (stats[PREFIX_CACHE_QUERIES], stats[PREFIX_CACHE_HITS]) == (41, 0)


def test_identical_prompts_in_one_step_prefill_once():
    engine = toy_engine()
    prompt = list(range(1, 18))
    for number in range(4):
        engine.add(request(str(number), prompt, max_tokens=2))
    outputs = run_to_end(engine)
    assert [outputs[str(n)][0].cached_tokens for n in range(4)] == [0, 16, 16, 16]
    assert engine.stats()[PROMPT_TOKENS] == 4 * 17
    assert engine.executor.computed_tokens == 17 + 3 + 4


def test_eviction_takes_the_least_recently_used():
    engine = toy_engine(num_blocks=16, max_model_len=64)
    old, new = [1] * 17, [2] * 17
    for name, prompt in (("old", old), ("new", new), ("old again", old)):
        engine.add(request(name, prompt, max_tokens=1))
        run_to_end(engine)
    engine.add(request("filler", [3] * 41, max_tokens=1))  # 11 of 16 blocks: 3 cached ones go, from a tail
    run_to_end(engine)
    for name, prompt, expected in (("old", old, 16), ("new", new, 4)):
        engine.add(request(f"{name} third", prompt, max_tokens=1))
        assert run_to_end(engine)[f"{name} third"][0].cached_tokens == expected


def test_abort_frees_the_blocks_at_once_in_every_state():
    engine = toy_engine(max_num_seqs=2, max_num_batched_tokens=8)
    engine.add(request("decoding", [1, 2, 3], max_tokens=30))
    engine.step()
    engine.add(request("prefilling", [5] * 40, max_tokens=30))
    engine.add(request("waiting", [1, 2, 3, 4], max_tokens=30))
    engine.step()
    assert (len(engine.scheduler.running), len(engine.scheduler.waiting)) == (2, 1)
    for name in ("waiting", "prefilling", "decoding", "unknown"):
        engine.abort(name)
        engine.check_integrity()
    assert engine.pool.num_used == 0
    assert not engine.has_work()


def test_preemption_recomputes_and_loses_nothing():
    engine = toy_engine(num_blocks=16, max_num_seqs=4)
    requests = [request(str(n), [n + 1] * 10, max_tokens=30) for n in range(4)]
    for one in requests:
        engine.add(one)
    outputs = run_to_end(engine)
    assert engine.stats()[PREEMPTIONS] > 0
    assert all(tokens_of(outputs[r.request_id]) == naive(r) for r in requests)


def test_an_urgent_request_takes_the_place_of_a_less_important_one():
    engine = toy_engine(max_num_seqs=2)
    background = [request(f"batch {n}", [n + 1] * 5, priority=5, max_tokens=20) for n in range(2)]
    for one in background:
        engine.add(one)
    engine.step()
    urgent = request("urgent", [9, 9, 9], priority=0, max_tokens=3)
    engine.add(urgent)
    assert "urgent" in {o.request_id for o in engine.step()}
    outputs = run_to_end(engine)
    assert tokens_of(outputs["urgent"]) == naive(urgent)[1:]
    assert len(tokens_of(outputs["batch 1"])) < 20, "its first token came before it was preempted"


@pytest.mark.parametrize("prompt", [[], [1] * 64, [1] * 100])
def test_what_can_never_run_comes_back_at_once(prompt):
    engine = toy_engine(max_model_len=64)
    engine.add(request("a", prompt))
    assert [(o.request_id, o.finish_reason) for o in engine.step()] == [("a", "abort")]
    assert not engine.has_work()


def test_a_second_request_with_a_known_id_is_refused_and_the_first_goes_on():
    engine = toy_engine()
    engine.add(request("a", [1], max_tokens=4))
    engine.add(request("a", [2], max_tokens=4))
    outputs = run_to_end(engine)["a"]
    assert sorted(o.finish_reason or "" for o in outputs) == ["", "", "", "abort", "length"]


def test_the_window_ends_generation():
    engine = toy_engine(max_model_len=64)
    engine.add(request("a", [1] * 60, max_tokens=1000))
    outputs = run_to_end(engine)["a"]
    assert len(tokens_of(outputs)) == 4
    assert outputs[-1].finish_reason == "length"


def free_running(prompt: list[int], count: int) -> list[int]:
    return naive(request("x", prompt, max_tokens=count))


def test_stop_tokens_and_minimum_length():
    prompt = [4, 4]
    greedy = free_running(prompt, 10)
    stop = greedy[3]
    engine = toy_engine()
    engine.add(request("stop", prompt, max_tokens=10, stop_token_ids=(stop,)))
    engine.add(request("min", prompt, max_tokens=10, stop_token_ids=(stop,), min_tokens=6))
    outputs = run_to_end(engine)
    first = greedy.index(stop)
    assert tokens_of(outputs["stop"]) == greedy[: first + 1]
    assert (outputs["stop"][-1].finish_reason, outputs["stop"][-1].stop_token_id) == ("stop", stop)
    assert stop not in tokens_of(outputs["min"])[:6]


def test_end_of_text_ends_unless_ignored():
    prompt = next([n, m] for n in range(1, 50) for m in range(1, 50) if EOS in free_running([n, m], 12)[:-1])
    engine = toy_engine()
    engine.add(request("ends", prompt, max_tokens=12, ignore_eos=False))
    engine.add(request("goes on", prompt, max_tokens=12))
    outputs = run_to_end(engine)
    assert tokens_of(outputs["ends"])[-1] == EOS
    assert outputs["ends"][-1].stop_token_id == EOS
    assert len(tokens_of(outputs["goes on"])) == 12


def test_log_probabilities_of_output_and_prompt():
    prompt = [5, 6, 7, 8, 9, 10]
    engine = toy_engine(max_num_batched_tokens=4, max_num_seqs=4)  # the prompt takes two chunks
    engine.add(request("warm", prompt, max_tokens=1))
    run_to_end(engine)
    engine.add(request("a", prompt, max_tokens=3, logprobs=2, prompt_logprobs=3))
    outputs = run_to_end(engine)["a"]
    tokens = prompt + tokens_of(outputs)
    entries = outputs[0].prompt_logprobs + [e for o in outputs for e in o.logprobs]
    assert entries[0] is None
    assert [e.token_id for e in entries[1:]] == tokens[1:]
    for position, entry in enumerate(entries[1:], start=1):
        expected = toy_logits(tokens[:position]).log_softmax(0)
        best = expected.topk(3 if position < len(prompt) else 2)
        assert entry.logprob == pytest.approx(float(expected[tokens[position]]), abs=1e-5)
        assert [t for t, _ in entry.top] == best.indices.tolist()
        assert [p for _, p in entry.top] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert outputs[0].cached_tokens == 0, "all prompt positions must be computed"


def test_one_prompt_token_has_no_prompt_log_probability():
    engine = toy_engine()
    engine.add(request("a", [5], max_tokens=1, prompt_logprobs=0))
    assert run_to_end(engine)["a"][0].prompt_logprobs == [None]


def test_unseeded_requests_differ_and_a_seed_repeats():
    engine = toy_engine()
    params = {"temperature": 1.5, "max_tokens": 16}
    for n in range(3):
        engine.add(request(f"free {n}", [1, 2], **params))
        engine.add(request(f"seeded {n}", [1, 2], seed=-7, **params))
    outputs = {k: tuple(tokens_of(v)) for k, v in run_to_end(engine).items()}
    assert len({outputs[f"free {n}"] for n in range(3)}) == 3
    assert len({outputs[f"seeded {n}"] for n in range(3)}) == 1


def test_every_step_says_how_large_it_was_and_where_its_time_went() -> None:
    engine = toy_engine(max_num_batched_tokens=8, max_num_seqs=4)
    assert engine.step() == []
    assert engine.timing is None
    engine.add(Request("a", list(range(1, 13)), SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)))
    sizes = []
    while engine.has_work():
        engine.step()
        timing = engine.timing
        assert timing is not None
        sizes.append((timing.sequences, timing.tokens))
        parts = (timing.schedule, timing.forward, timing.sample, timing.other)
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(timing.seconds)
    assert sizes == [(1, 8), (1, 4), (1, 1), (1, 1)]


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_steps_time_is_told_by_what_it_went_to(overlaps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves only while a batch is chosen, computed and read."""
    now = [0.0]
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    engine = toy_engine(async_scheduling=overlaps)

    def takes(seconds: float, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def slow(*arguments: Any) -> Any:
            now[0] += seconds
            return real(*arguments)

        monkeypatch.setattr(owner, name, slow)

    takes(1, engine.scheduler, "schedule")
    takes(10, engine.executor, "run")
    takes(100, engine, "_read")
    engine.executor.timer.seconds = lambda: 10.0  # type: ignore[method-assign]
    engine.add(Request("a", [1, 2, 3], SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)))
    timings = []
    while engine.has_work():
        engine.step()
        if engine.timing is not None:
            timings.append(engine.timing)
    found = [(one.schedule, one.forward, one.sample, one.seconds) for one in timings]
    whole = (1.0, 10.0, 100.0, 111.0)
    # the last was started by the call before it, and nothing is behind it; choosing nothing takes its second too
    last = (1.0, 10.0, 90.0, 101.0)
    assert found == ([whole, whole, last] if overlaps else [whole] * 3)


def test_the_oldest_waiting_sequence_of_each_class_has_an_age() -> None:
    engine = toy_engine(max_num_seqs=1)
    long = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True)
    engine.add(Request("a", [1, 2], long))
    engine.step()
    assert engine.stats().oldest_waiting_seconds == {}
    engine.add(Request("b", [1, 2], long, priority=5))
    engine.add(Request("c", [1, 2], long))
    engine.add(Request("batch", [1, 2], long, service_class=2))
    engine.sequences["b"].arrived_at -= 100
    engine.sequences["batch"].arrived_at -= 3000
    oldest = engine.stats().oldest_waiting_seconds
    assert 100 <= oldest.pop(1) < 1000
    assert 3000 <= oldest.pop(2) < 4000
    assert not oldest
