"""Who waits for whom: urgent requests, short prompts beside long ones, and prompts for which there is no room."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from model.engine import Engine
from model.request import Request, SamplingParams
from model.scheduling.scheduler import MOST_PASSES
from monitoring.metrics import PREEMPTIONS
from tests.support.toy_engine import naive, run_to_end, tokens_of, toy_engine

STEP = 40
"""Tokens of a step in these tests; a quarter of them is for prompts that end with it."""


def request(request_id: str, length: int, priority: int = 0, max_tokens: int = 2) -> Request:
    """Of a prompt that shares no block with others."""
    start = [byte % 48 + 1 for byte in f"{request_id:>12}".encode()]
    prompt = (start * (length // len(start) + 1))[:length]
    return Request(request_id, prompt, SamplingParams(max_tokens, temperature=0.0, ignore_eos=True), priority)


def engine_of(**options: int) -> Engine:
    sizes = {"num_blocks": 400, "max_model_len": 800, "max_num_seqs": 8, "max_num_batched_tokens": STEP}
    return toy_engine(**sizes | options)


def first_step_of(engine: Engine, request_id: str, most: int = 200) -> int:
    """How many steps it takes until the request has its first token."""
    for number in range(1, most):
        outputs = engine.step()
        engine.check_integrity()
        if any(o.request_id == request_id and o.token_ids for o in outputs):
            return number
    raise AssertionError(f"{request_id} got nothing in {most} steps")


def test_an_urgent_prompt_does_not_wait_for_a_long_one_that_runs() -> None:
    engine = engine_of()
    engine.add(request("long", 600, priority=5))
    engine.step()
    engine.add(request("urgent", 70, priority=0))
    assert first_step_of(engine, "urgent") == 2
    assert engine.stats()[PREEMPTIONS] == 0
    run_to_end(engine)


def test_a_keystroke_does_not_wait_for_a_long_prompt_of_its_own_priority() -> None:
    engine = engine_of()
    engine.add(request("long", 600))
    for number in range(5):
        engine.step()
        engine.add(request(f"key {number}", 8))
        assert first_step_of(engine, f"key {number}") == 1
    run_to_end(engine)


def test_a_keystroke_is_short_if_most_of_it_is_cached() -> None:
    engine = engine_of()
    engine.add(request("typed", 200))
    run_to_end(engine)
    engine.add(request("long", 600))
    engine.step()
    again = request("typed", 200)
    engine.add(Request("again", [*again.prompt_ids, 3, 4, 5], again.params))
    assert first_step_of(engine, "again") == 1
    run_to_end(engine)


def test_keystrokes_leave_a_long_prompt_most_of_each_step() -> None:
    engine = engine_of()
    engine.add(request("long", 600))
    steps = 0
    while not any(o.request_id == "long" for o in engine.step()):
        steps += 1
        for number in range(4):
            engine.add(request(f"key {steps} {number}", 8, max_tokens=1))
    assert steps <= 600 / (STEP * 3 / 4)
    run_to_end(engine)


def test_without_short_prompts_a_long_one_gets_the_whole_step() -> None:
    engine = engine_of()
    engine.add(request("long", 4 * STEP))
    assert first_step_of(engine, "long") == 4


def test_nobody_is_preempted_for_one_that_would_not_fit_even_so() -> None:
    engine = engine_of(num_blocks=200, max_num_batched_tokens=800, max_num_seqs=4)
    engine.add(request("also urgent", 600, priority=0, max_tokens=30))
    background = [request(f"batch {n}", 20, priority=5, max_tokens=12) for n in range(2)]
    for one in background:
        engine.add(one)
    engine.step()
    engine.add(request("urgent", 300, priority=0))  # 75 blocks, and 150 of 200 are held by one as urgent
    outputs = run_to_end(engine)
    assert engine.stats()[PREEMPTIONS] == 0
    assert all(tokens_of(outputs[one.request_id]) == naive(one, 800)[1:] for one in background)
    assert "urgent" in outputs


def test_no_more_are_preempted_than_make_room() -> None:
    engine = engine_of(num_blocks=200, max_num_batched_tokens=800, max_num_seqs=8)
    for number in range(6):
        engine.add(request(f"batch {number}", 100, priority=5, max_tokens=20))
    engine.step()
    engine.add(request("urgent", 160, priority=0))  # 40 blocks and one for each that stays; 50 are free, less 6
    engine.add(request("urgent too", 60, priority=0))
    assert first_step_of(engine, "urgent") == 1
    assert engine.stats()[PREEMPTIONS] <= 1
    run_to_end(engine)


def test_a_prompt_that_does_not_fit_is_passed_by_few() -> None:
    engine = engine_of(num_blocks=200, max_num_batched_tokens=800, max_num_seqs=8)
    engine.add(request("holds", 600, max_tokens=200))
    engine.step()
    engine.add(request("large", 300))
    passed = 0
    while engine.sequences["large"].started_at is None:
        passed += 1
        engine.add(request(f"small {passed}", 8, max_tokens=1))
        engine.step()
        engine.check_integrity()
        assert passed < 400
    assert engine.sequences["large"].passed <= MOST_PASSES
    assert engine.sequences["large"].passed > 10, "nobody passed, though there was room"
    run_to_end(engine)


def test_nobody_less_important_passes_one_that_does_not_fit() -> None:
    engine = engine_of(num_blocks=200, max_num_batched_tokens=800, max_num_seqs=8)
    engine.add(request("holds", 600, max_tokens=5))
    engine.step()
    engine.add(request("large", 300))
    engine.add(request("batch", 8, priority=5))
    engine.step()
    assert engine.sequences["batch"].started_at is None
    run_to_end(engine)


@given(
    lengths=st.lists(st.tuples(st.integers(1, 300), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=25),
    num_blocks=st.integers(200, 260),
    tokens=st.sampled_from([8, 40, 200]),
)
@settings(max_examples=60)
def test_under_any_load_everybody_starts(lengths: list[tuple[int, int, int]], num_blocks: int, tokens: int) -> None:
    """Within what all prompts and answers take one after the other; nobody is overtaken for ever."""
    engine = engine_of(num_blocks=num_blocks, max_num_batched_tokens=tokens)
    outputs: dict[str, list] = {}
    for number, (length, priority, gap) in enumerate(lengths):
        engine.add(request(f"r{number}", length, priority, max_tokens=5))
        for _ in range(gap):
            for output in engine.step():
                outputs.setdefault(output.request_id, []).append(output)
            engine.check_integrity()
    steps = sum(-(-length // min(tokens, 8)) + 5 for length, _, _ in lengths) * 2
    for _ in range(steps):
        if not engine.has_work():
            break
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        engine.check_integrity()
    assert not engine.has_work()
    for number, (length, priority, _) in enumerate(lengths):
        assert tokens_of(outputs[f"r{number}"]) == naive(request(f"r{number}", length, priority, max_tokens=5), 800)


def test_whether_it_is_blocks_that_one_waits_for_is_told() -> None:
    """Not where the step had no token left for it, which the next one may have."""
    engine = engine_of()
    for name in "abc":
        engine.add(request(name, 200))
    engine.step()
    assert (engine.stats().waiting, engine.stats().lacks_blocks) == (2, False)
    run_to_end(engine)
    engine = engine_of(num_blocks=2 + 24 // engine.pool.block_size)
    engine.add(request("first", 20, max_tokens=4))
    engine.step()
    engine.add(request("second", 20))
    assert not engine.stats().lacks_blocks, "it has not been looked at yet"
    engine.step()
    assert (engine.stats().waiting, engine.stats().lacks_blocks) == (1, True)
    run_to_end(engine)
    assert (engine.stats().waiting, engine.stats().lacks_blocks) == (0, False)
