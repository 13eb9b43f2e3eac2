"""Prompt lookup: what it finds, how it adapts, and that it changes speed only."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import EngineConfig
from model.limits import DRAFTED_ROWS
from model.pico import CHECKPOINT
from model.process.rank import Rank
from model.request import Request, SamplingParams
from model.scheduling.speculation import LONGEST_MATCH, SHORTEST_MATCH, PromptLookup, Speculator
from monitoring.metrics import ACCEPTED_DRAFT_TOKENS, DRAFT_TOKENS, DRAFTED_STEP_TIME, ENGINE_STEPS, PLAIN_STEP_TIME
from tests.support.toy_engine import naive, run_to_end, tokens_of, toy_engine


def naive_draft(tokens: list[int], length: int) -> list[int]:
    """By definition: the longest suffix that occurred before, its latest occurrence, copied as LZ77 copies."""
    for size in range(LONGEST_MATCH, SHORTEST_MATCH - 1, -1):
        for end in range(len(tokens) - 1, size - 1, -1):
            if len(tokens) >= size and tokens[end - size : end] == tokens[-size:]:
                copied = list(tokens)
                for i in range(length):
                    copied.append(copied[end + i])
                return copied[len(tokens) :]
    return []


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(0, 12), st.data())
def test_finds_what_a_search_finds(tokens, length, data):
    lookup = PromptLookup()
    lookup.draft(tokens[: data.draw(st.integers(0, len(tokens)))], length)  # indexing bit by bit changes nothing
    assert lookup.draft(tokens, length) == naive_draft(tokens, length)


def test_drafts_grow_while_right_and_pause_while_wrong():
    repeating = [1, 2, 3, 4] * 20
    speculator = Speculator(longest=8)
    lengths = []
    for _ in range(4):
        draft = speculator.draft(repeating)
        lengths.append(len(draft))
        speculator.learn(len(draft), len(draft))
    assert lengths == [2, 4, 8, 8]
    drafts = 0
    for _ in range(1000):
        draft = speculator.draft(repeating)
        drafts += bool(draft)
        speculator.learn(len(draft), 0)
    assert drafts <= 25, "a sequence that never follows its past must hardly be tried"
    speculator.learn(2, 2)
    speculator._skip = 0
    assert speculator.draft(repeating)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_prompt_is_looked_through_in_the_step_that_computes_it(overlap):
    engine = toy_engine(speculative_tokens=4, async_scheduling=overlap, max_num_batched_tokens=8)
    engine.add(Request("a", list(range(1, 21)), SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)))
    lookup = engine.sequences["a"].speculator._lookup
    engine.add(Request("b", list(range(1, 21)), SamplingParams(max_tokens=1)))
    other = engine.sequences["b"].speculator._lookup
    for _ in range(4):
        engine.step()
    assert lookup._indexed >= 20
    assert other._indexed == 0, "who draws one token never drafts"


def test_fewer_steps_same_output():
    prompt = [4, 9, 4, 9, 4, 9, 11]
    params = SamplingParams(max_tokens=50, temperature=0, ignore_eos=True, logprobs=1)
    plain, fast = toy_engine(), toy_engine(speculative_tokens=8)
    for engine in (plain, fast):
        for number in range(3):
            engine.add(Request(str(number), [*prompt, number], params))
    slow_outputs, fast_outputs = run_to_end(plain), run_to_end(fast)
    for number in range(3):
        slow, quick = slow_outputs[str(number)], fast_outputs[str(number)]
        assert tokens_of(quick) == tokens_of(slow) == naive(Request("", [*prompt, number], params))
        entries = [[e for o in outputs for e in o.logprobs] for outputs in (slow, quick)]
        assert entries[0] == entries[1]
        assert quick[-1].finish_reason == "length"
    stats = fast.stats()
    assert stats[ENGINE_STEPS] < plain.stats()[ENGINE_STEPS]
    assert 0 < stats[ACCEPTED_DRAFT_TOKENS] <= stats[DRAFT_TOKENS]
    assert stats[DRAFTED_STEP_TIME] > 0 < stats[PLAIN_STEP_TIME]
    assert plain.stats()[PLAIN_STEP_TIME] == 0


@pytest.mark.parametrize("sequences", [1, 5, 12, 20])
def test_drafts_fill_a_step_only_as_far_as_they_are_free(sequences):
    params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
    engine = toy_engine(num_blocks=20 * 16, speculative_tokens=8)
    for number in range(sequences):
        engine.add(Request(str(number), [4, 9, 4, 9, number + 1], params))
    helped, found = set(), {}
    while engine.has_work():
        deciding = all(s.num_output for s in engine.sequences.values())
        for output in engine.step():
            found.setdefault(output.request_id, []).extend(output.token_ids)
            if len(output.token_ids) > 1:
                helped.add(output.request_id)
        if deciding:
            assert engine.timing.tokens <= max(DRAFTED_ROWS["cpu"], sequences)
    for number in range(sequences):
        assert found[str(number)] == naive(Request("", [4, 9, 4, 9, number + 1], params))
    assert len(helped) == (sequences if sequences < 12 else 0)
    assert (engine.stats()[DRAFT_TOKENS] > 0) == (sequences < 12)


@given(st.integers(0, 2**63), st.floats(0.3, 1.5), st.integers(1, 5))
@settings(max_examples=50)
def test_sampled_output_is_exactly_that_without_speculation(seed, temperature, prompt):
    params = SamplingParams(
        max_tokens=30, temperature=temperature, seed=seed, top_p=0.95, repetition_penalty=1.1, frequency_penalty=0.1
    )
    outputs = []
    for speculation in (0, 6):
        engine = toy_engine(speculative_tokens=speculation)
        engine.add(Request("a", [prompt, 7, prompt, 7, prompt], params))
        outputs.append(tokens_of(run_to_end(engine)["a"]))
    assert outputs[0] == outputs[1]


def test_a_stop_inside_an_accepted_draft_ends_there():
    prompt = [4, 9, 4, 9]
    params = SamplingParams(max_tokens=50, temperature=0, ignore_eos=True)
    greedy = naive(Request("", prompt, params))
    for stop in set(greedy):
        engine = toy_engine(speculative_tokens=8)
        stopping = SamplingParams(max_tokens=50, temperature=0, ignore_eos=True, stop_token_ids=(stop,))
        engine.add(Request("a", prompt, stopping))
        assert tokens_of(run_to_end(engine)["a"]) == greedy[: greedy.index(stop) + 1]


def test_confirmed_drafts_are_cached_for_the_next_request():
    params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
    engine = toy_engine(speculative_tokens=8)
    engine.add(Request("a", [4, 9, 4, 9], params))
    output = tokens_of(run_to_end(engine)["a"])
    engine.add(Request("b", [4, 9, 4, 9, *output], SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)))
    outputs = run_to_end(engine)["b"]
    assert outputs[0].cached_tokens >= 36
    assert tokens_of(outputs) == naive(Request("", [4, 9, 4, 9, *output], SamplingParams(max_tokens=4, temperature=0)))


@pytest.mark.parametrize(("asked", "drafts"), [(None, True), (0, False), (3, True)])
def test_drafts_are_made_unless_told_otherwise(asked, drafts):
    config = EngineConfig(model=str(CHECKPOINT), device="cpu", speculative_tokens=asked, num_kv_blocks=200)
    rank = Rank(config)
    rank.load()
    engine = rank.engine()
    params = SamplingParams(max_tokens=12, seed=0, ignore_eos=True)
    engine.add(Request("a", [40, 41, 42, 43, 44, 45] * 5, params))
    run_to_end(engine)
    assert (engine.stats()[DRAFT_TOKENS] > 0) == drafts
