"""A draft model on the toy network: texts stay the same, and one that is the model itself is always right.

That it is right is what shows that its cache holds what it has to: after prefix hits, preemptions and wrong drafts, in
chunks, whoever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import drafter
from model.engine import Engine
from model.request import Output, Request, SamplingParams
from model.scheduling import drafting
from model.scheduling.draft_length import DraftLength
from model.scheduling.speculation import Speculator
from monitoring import metrics
from monitoring.metrics import (
    ACCEPTED_DRAFT_TOKENS,
    ACCEPTED_MODEL_DRAFT_TOKENS,
    DRAFT_TOKENS,
    ENGINE_STEPS,
    MODEL_DRAFT_TOKENS,
    PREEMPTIONS,
    PREFIX_CACHE_HITS,
)
from tests.support.drafts import as_long_as_there_is_room
from tests.support.loads import Arrival, arrivals, engine_options, run_load
from tests.support.toy_engine import VOCABULARY, naive, run_to_end, tokens_of, toy_engine, toy_logits


def another_network(context: list[int]) -> torch.Tensor:
    """Says the same now and then."""
    return toy_logits(context if sum(context) % 3 else [*context, 1])


def noise(context: list[int]) -> torch.Tensor:
    return toy_logits([*context, 1, 2, 3])


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts are made whatever they take: the toy's steps take no time that is like a network's."""
    monkeypatch.setattr(DraftLength, "share", as_long_as_there_is_room)


@pytest.fixture
def no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Speculator, "draft", lambda *_: [])
    monkeypatch.setattr(Speculator, "promises", lambda *_: False)


def request(request_id: str, prompt: list[int], priority: int = 0, **params: object) -> Request:
    return Request(request_id, prompt, SamplingParams(**{"temperature": 0.0, "ignore_eos": True, **params}), priority)


def network_of(engine: Engine) -> Any:
    assert engine.drafter is not None
    return engine.drafter._model.network


def all_right(engine: Engine) -> bool:
    """Of the draft model's, of which there have to be some."""
    stats = engine.stats()
    assert stats[MODEL_DRAFT_TOKENS] > 0
    return stats[ACCEPTED_MODEL_DRAFT_TOKENS] == stats[MODEL_DRAFT_TOKENS]


@given(
    arrivals=arrivals,
    options=engine_options,
    share=st.sampled_from([drafting.MOST_DRAFTS, 0.5, 1.5]),
    network=st.sampled_from([toy_logits, another_network, noise]),
    tokens=st.sampled_from([1, 3, 128]),
)
@settings(max_examples=60, deadline=None)
def test_any_load_gives_each_request_what_it_would_get_alone(
    arrivals: list[Arrival], options: dict[str, Any], share: float, network: Any, tokens: int
) -> None:
    """tokens: of a draft model's pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafting, "MOST_DRAFTS", share)
        patch.setitem(drafter.DRAFT_PASS_TOKENS, "cpu", tokens)
        engine = toy_engine(**{**options, "speculative_tokens": options["speculative_tokens"] or 4}, draft=network)
        run_load(engine, arrivals, lambda: check_cache(engine)).check()
    assert all(len(batch.tokens) <= tokens or batch.num_decodes == len(batch.tokens) for batch in passes(engine))


def passes(engine: Engine) -> list[Any]:
    found: list[Any] = network_of(engine).passes
    return found


def check_cache(engine: Engine) -> None:
    """What is said to be in the draft model's cache is there: each sequence's own tokens."""
    network, size = network_of(engine), engine.pool.block_size
    for sequence in engine.scheduler.running:
        held = sequence.drafted
        assert held <= len(sequence.tokens)
        for index, block in enumerate(sequence.blocks):
            if block in engine.pool.drafted:
                held = max(held, (index + 1) * size) if held >= index * size else held
        slots = [sequence.blocks[p // size] * size + p % size for p in range(held)]
        assert network.slots[slots].tolist() == [[t, p] for p, t in enumerate(sequence.tokens[:held])]


@given(
    st.lists(st.integers(1, 4), min_size=3, max_size=12),
    st.integers(0, 2**63),
    st.sampled_from([0.0, 0.7, 1.3]),
    st.sampled_from([{}, {"repetition_penalty": 1.1, "frequency_penalty": 0.1}, {"min_tokens": 9}, {"top_k": 5}]),
    st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_sampled_texts_are_those_without_drafts_and_a_model_that_drafts_for_itself_is_right(
    prompt: list[int], seed: int, temperature: float, more: dict[str, Any], overlap: bool
) -> None:
    found = []
    for network in (None, toy_logits, noise):
        with pytest.MonkeyPatch.context() as patch:
            if network is not None:
                patch.setattr(Speculator, "draft", lambda *_: [])
            length = 6 if network is not None else 0
            engine = toy_engine(256, speculative_tokens=length, async_scheduling=overlap, draft=network)
            for number in range(3):
                params = {"max_tokens": 24, "temperature": temperature, "seed": seed + number, "top_p": 0.95}
                one = request(str(number), [*prompt, number + 1], **params, logprobs=1, **more)
                engine.add(Request(one.request_id, one.prompt_ids, one.params, barred_ids=(0, 3, 5, 7)))
            outputs = run_to_end(engine)
        found.append({n: (tokens_of(o), [e for each in o for e in each.logprobs]) for n, o in outputs.items()})
        assert network is not toy_logits or all_right(engine)
    assert found == [found[0]] * 3


@pytest.mark.usefixtures("no_lookup")
def test_fewer_steps_and_as_many_passes_as_tokens_are_drafted() -> None:
    one = request("a", [1, 2, 3], max_tokens=25)
    engine = toy_engine(speculative_tokens=4, draft=toy_logits)
    engine.add(one)
    outputs = run_to_end(engine)["a"]
    assert tokens_of(outputs) == naive(one)
    assert [len(o.token_ids) for o in outputs] == [1, 5, 5, 5, 5, 4]
    assert all_right(engine)
    assert engine.stats()[ENGINE_STEPS] == 6
    # the prompt and its first token, then what was drawn last and what was drafted last: that no pass has written
    assert [len(batch.tokens) for batch in passes(engine)] == [4, 1, 1, 1, *[2, 1, 1, 1] * 3, 2, 1, 1]
    assert engine.stats()[metrics.DRAFT_MODEL_TIME] > 0


@pytest.mark.usefixtures("no_lookup")
def test_what_is_found_in_the_cache_is_found_for_drafts_too() -> None:
    engine = toy_engine(128, speculative_tokens=4, draft=toy_logits)
    prompt = list(range(1, 22))
    engine.add(request("a", prompt, max_tokens=20))
    first = tokens_of(run_to_end(engine)["a"])
    before = sum(len(batch.tokens) for batch in passes(engine))
    follow_up = request("b", [*prompt, *first[:15], 9, 9], max_tokens=6)
    engine.add(follow_up)
    outputs = run_to_end(engine)["b"]
    assert tokens_of(outputs) == naive(follow_up)
    assert outputs[0].cached_tokens == 36
    assert all_right(engine)
    assert sum(len(batch.tokens) for batch in passes(engine)) - before <= 3 + 6


@pytest.mark.usefixtures("no_lookup")
def test_a_prompt_that_several_share_is_computed_for_one_of_them() -> None:
    engine = toy_engine(256, speculative_tokens=2, draft=toy_logits)
    prompt = list(range(1, 25))
    requests = [request(str(n), prompt, max_tokens=12, temperature=1.0, seed=n) for n in range(3)]
    for one in requests:
        engine.add(one)
    run_to_end(engine)
    assert engine.stats()[PREFIX_CACHE_HITS] > 0
    assert all_right(engine)
    computed = sum(len(batch.tokens) for batch in passes(engine))
    assert computed < 24 + 3 * (4 + 12 + 12), "each has its last block, and its own tokens"


@pytest.mark.usefixtures("no_lookup")
@pytest.mark.parametrize("caching", [False, True])
def test_who_was_preempted_drafts_as_well_as_before(caching: bool) -> None:
    engine = toy_engine(16, max_num_seqs=3, speculative_tokens=3, draft=toy_logits, enable_prefix_caching=caching)
    requests = [request(str(n), [n + 1] * 9, max_tokens=30) for n in range(3)]
    for one in requests:
        engine.add(one)
    outputs = run_to_end(engine, after_step=lambda: check_cache(engine))
    assert {name: tokens_of(found) for name, found in outputs.items()} == {r.request_id: naive(r) for r in requests}
    assert engine.stats()[PREEMPTIONS] > 0
    assert all_right(engine)


@pytest.mark.usefixtures("no_lookup")
def test_a_block_that_the_draft_models_cache_does_not_hold_makes_drafts_wrong_and_no_text() -> None:
    """A planted fault, which the tests above would find."""
    engine = toy_engine(128, speculative_tokens=4, draft=lambda context: toy_logits(context))
    prompt = list(range(1, 22))
    engine.add(request("a", prompt, max_tokens=20))
    first = tokens_of(run_to_end(engine)["a"])
    assert all_right(engine)
    network_of(engine).slots[:, 0] = 9
    follow_up = request("b", [*prompt, *first[:15], 9, 9], max_tokens=20)
    engine.add(follow_up)
    assert tokens_of(run_to_end(engine)["b"]) == naive(follow_up)
    assert not all_right(engine)


def test_what_can_be_looked_up_is_not_drafted_by_the_model() -> None:
    requests = [request(str(n), [4, 9, 4, 9, 4, 9, 11 + n], max_tokens=50) for n in range(3)]
    engine = toy_engine(256, speculative_tokens=8, draft=noise)
    for one in requests:
        engine.add(one)
    outputs = run_to_end(engine)
    assert {name: tokens_of(found) for name, found in outputs.items()} == {r.request_id: naive(r) for r in requests}
    stats = engine.stats()
    assert 0 < stats[MODEL_DRAFT_TOKENS] < stats[DRAFT_TOKENS]
    lookups = stats[DRAFT_TOKENS] - stats[MODEL_DRAFT_TOKENS]
    assert 0 < stats[ACCEPTED_DRAFT_TOKENS] - stats[ACCEPTED_MODEL_DRAFT_TOKENS] <= lookups
    assert stats[ACCEPTED_MODEL_DRAFT_TOKENS] < 0.2 * stats[MODEL_DRAFT_TOKENS]


@pytest.mark.usefixtures("no_lookup")
def test_a_long_prompt_is_computed_in_parts_while_the_others_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(drafter.DRAFT_PASS_TOKENS, "cpu", 12)
    engine = toy_engine(256, speculative_tokens=2, draft=toy_logits)
    requests = [request("short", [1, 2, 3], max_tokens=20), request("long", list(range(1, 31)), max_tokens=20)]
    for one in requests:
        engine.add(one)
    outputs = run_to_end(engine, after_step=lambda: check_cache(engine))
    assert {name: tokens_of(found) for name, found in outputs.items()} == {r.request_id: naive(r) for r in requests}
    assert [len(o.token_ids) for o in outputs["short"]][:3] == [1, 3, 3]
    assert [len(o.token_ids) for o in outputs["long"]][:5] == [1, 1, 1, 1, 3]
    assert max(len(batch.tokens) for batch in passes(engine)) == 12
    assert all_right(engine)


@pytest.mark.usefixtures("no_lookup")
def test_other_failures_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = toy_engine(speculative_tokens=4, draft=toy_logits)
    engine.add(request("a", [1, 2, 3], max_tokens=25))

    def fails(batch: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(network_of(engine), "run", fails)
    with pytest.raises(RuntimeError, match="device-side"):
        run_to_end(engine)


@pytest.mark.usefixtures("no_lookup")
def test_logits_that_are_no_numbers_make_drafts_wrong_and_no_failure() -> None:
    one = request("a", [1, 2, 3], max_tokens=25, temperature=1.0, seed=3)
    texts = []
    for network in (toy_logits, lambda _: torch.full((VOCABULARY,), float("nan"))):
        engine = toy_engine(speculative_tokens=4, draft=network)
        engine.add(one)
        outputs = run_to_end(engine)["a"]
        assert outputs[-1].finish_reason == "length"
        texts.append(tokens_of(outputs))
    assert texts[0] == texts[1]
    assert not all_right(engine)


@pytest.mark.usefixtures("no_lookup")
def test_a_stop_inside_an_accepted_draft_ends_there_and_does_not_count_as_wrong() -> None:
    greedy = naive(request("", [4, 9, 4, 9], max_tokens=40))
    for stop in set(greedy[2:]):
        engine = toy_engine(speculative_tokens=8, draft=toy_logits)
        engine.add(request("a", [4, 9, 4, 9], max_tokens=40, stop_token_ids=(stop,)))
        assert tokens_of(run_to_end(engine)["a"]) == greedy[: greedy.index(stop) + 1]
        assert engine.drafter is not None
        assert engine.drafter.length.chance >= 0.7


@pytest.mark.usefixtures("no_lookup")
def test_tokens_are_read_before_the_model_drafts_and_steps_run_ahead_where_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = toy_engine(speculative_tokens=3, draft=toy_logits, async_scheduling=True)
    pays = True
    monkeypatch.setattr(DraftLength, "share", lambda *given: [3 * pays for _ in given[1]])
    one = request("a", [1, 2, 3], max_tokens=30)
    engine.add(one)
    outputs: list[Output] = []
    while engine.sequences["a"].num_new < 12:
        outputs += engine.step()
    assert len(outputs[-1].token_ids) == 4
    assert not engine._in_flight
    pays = False
    outputs += engine.step()
    assert engine._in_flight
    outputs += engine.step()
    assert engine._in_flight
    outputs += run_to_end(engine)["a"]
    assert tokens_of(outputs) == naive(one)


def batches_of(engine: Engine) -> Iterator[list[tuple[int, int]]]:
    for batch in passes(engine):
        yield list(zip(batch.query_lens.tolist(), batch.context_lens.tolist(), strict=True))


@pytest.mark.usefixtures("no_lookup")
@pytest.mark.parametrize("sequences", [1, 3, 6, 11, 12])
def test_drafts_fill_a_step_only_as_far_as_they_are_free(sequences: int) -> None:
    engine = toy_engine(20 * 16, speculative_tokens=8, draft=toy_logits)
    requests = [request(str(n), [4, 9, n + 1], max_tokens=20) for n in range(sequences)]
    for one in requests:
        engine.add(one)
    outputs = run_to_end(engine)
    assert {name: tokens_of(found) for name, found in outputs.items()} == {r.request_id: naive(r) for r in requests}
    assert (engine.stats()[MODEL_DRAFT_TOKENS] > 0) == (sequences < 12)
    assert engine.executor.most_logit_rows <= 12  # type: ignore[attr-defined]
    for batch in batches_of(engine):
        assert len(batch) <= min(sequences, 12 // 2)
    for batch in passes(engine):
        assert len(np.unique(batch.slots)) == len(batch.slots)
