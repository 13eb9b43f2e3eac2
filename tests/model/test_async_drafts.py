"""Drafts of steps that are started before the one ahead of them has been read, on the toy network."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batch import Batch
from model.config import EngineConfig
from model.engine import Engine
from model.pico import CHECKPOINT
from model.process.rank import Rank
from model.request import Request, SamplingParams
from model.sampler import Drawn
from model.scheduling import drafting, worth
from model.scheduling.sequence import Sequence
from model.scheduling.speculation import Speculator
from monitoring.metrics import ACCEPTED_DRAFT_TOKENS, DRAFT_TOKENS, DRAFTED_STEP_TIME, PLAIN_STEP_TIME
from tests.support.toy_engine import naive, run_to_end, tokens_of, toy_engine


def request(request_id: str, prompt: list[int], priority: int = 0, **params: object) -> Request:
    return Request(request_id, prompt, SamplingParams(**{"temperature": 0.0, "ignore_eos": True, **params}), priority)


class Drafts:
    """In the place of prompt lookup: what a text really goes on with, now and then. at: output tokens that are known
    when it drafts; wrong: the draft's token that is not the text's, counted from those lengths.
    """

    def __init__(self, one: Request, at: set[int], wrong: int = 99) -> None:
        self._prompt, self._text = len(one.prompt_ids), naive(one)
        self._at, self._wrong = at, wrong

    def index(self, tokens: list[int]) -> None: ...

    def draft(self, tokens: list[int], length: int) -> list[int]:
        known = len(tokens) - self._prompt
        found = self._text[known : known + length] if known in self._at else []
        return [token if i != self._wrong else 49 - token for i, token in enumerate(found)]


def started(engine: Engine, requests: list[Request], drafts: dict[str, Drafts]) -> None:
    for one in requests:
        engine.add(one)
        speculator = engine.sequences[one.request_id].speculator
        assert speculator is not None
        speculator._lookup = drafts.get(one.request_id, Drafts(one, set()))  # type: ignore[assignment]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Starts of steps, with the sequences' rows where some have more than one, and reads, in order."""
    seen: list[str] = []
    launch, read = Engine._launch, Drawn.read
    batches: list[Batch] = []

    def noting_launch(engine: Engine, drafts: bool) -> Any:
        run = engine.executor.run
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine.executor, "run", lambda batch: batches.append(batch) or run(batch))
            found = launch(engine, drafts)
        if found is not None:
            seen.append(f"start {len(batches[-1].query_lens)}:{len(batches[-1].tokens)}")
        return found

    monkeypatch.setattr(Engine, "_launch", noting_launch)
    monkeypatch.setattr(Drawn, "read", lambda drawn: seen.append("read") or read(drawn))
    return seen


def test_who_has_nothing_to_draft_runs_ahead(events: list[str]) -> None:
    engine = toy_engine(async_scheduling=True, speculative_tokens=4)
    one = request("a", [1, 2, 3], max_tokens=4)
    started(engine, [one], {})
    assert tokens_of(run_to_end(engine)["a"]) == naive(one)
    assert events == ["start 1:3", "start 1:1", "read", "start 1:1", "read", "start 1:1", "read", "read"]


def test_a_token_is_awaited_where_a_draft_is_likely_to_follow_it(events: list[str]) -> None:
    engine = toy_engine(async_scheduling=True, speculative_tokens=4)
    one = request("a", [1, 2, 3], max_tokens=8)
    started(engine, [one], {"a": Drafts(one, {2, 3, 6})})
    assert tokens_of(run_to_end(engine)["a"]) == naive(one)
    plain = ["start 1:3", "start 1:1", "read", "start 1:1", "read"]
    # two tokens are known, the third is read before anything is started; then the step with a draft is read at once
    assert events == [*plain, "read", "start 1:3", "read", "start 1:2", "read"]
    assert engine.stats()[ACCEPTED_DRAFT_TOKENS] == 3


def test_where_few_draft_the_others_run_ahead_of_their_check(events: list[str]) -> None:
    engine = toy_engine(num_blocks=256, async_scheduling=True, speculative_tokens=4)
    requests = [request(str(i), [i + 1, 2, 3], max_tokens=7) for i in range(9)]
    started(engine, requests, {"4": Drafts(requests[4], {1})})
    outputs = run_to_end(engine)
    assert {name: tokens_of(found) for name, found in outputs.items()} == {r.request_id: naive(r) for r in requests}
    # its draft is made while its second token is drawn; when it is checked, the others do not wait for it
    assert events[:7] == ["start 9:27", "start 9:9", "read", "start 9:11", "read", "start 8:8", "read"]
    assert engine.stats()[ACCEPTED_DRAFT_TOKENS] == 2
    assert [len(o.token_ids) for o in outputs["4"]] == [1, 1, 3, 1, 1]


def test_where_all_steps_would_draft_two_run_without_as_if_nobody_drafted(
    events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of which is prepared while the other runs, and is what the time of those with drafts is compared with."""
    monkeypatch.setattr(worth, "COMPARED_EVERY", 6)
    engine = toy_engine(async_scheduling=True, speculative_tokens=1)
    one = request("a", [1, 2, 3], max_tokens=24)
    started(engine, [one], {"a": Drafts(one, set(range(3, 24)))})
    assert tokens_of(run_to_end(engine)["a"]) == naive(one)
    begin = ["start 1:3", "start 1:1", "read", "start 1:1", "read", "start 1:1", "read", "read"]
    drafted, without = ["start 1:2", "read"], ["start 1:1", "start 1:1", "read", "read"]
    assert events == [*begin, *6 * drafted, *without, *3 * drafted]
    counted = engine.stats()
    assert counted[DRAFTED_STEP_TIME] > 0 < counted[PLAIN_STEP_TIME]


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_a_draft_behind_a_token_that_is_not_known_is_kept_as_far_as_it_is_right(wrong: int) -> None:
    engine = toy_engine(num_blocks=256, async_scheduling=True, speculative_tokens=4)
    requests = [request(str(i), [i + 1, 2, 3], max_tokens=7) for i in range(9)]
    started(engine, requests, {"4": Drafts(requests[4], {1}, wrong)})
    outputs = run_to_end(engine)
    assert tokens_of(outputs["4"]) == naive(requests[4])
    # the first is only guessed on the way to the draft
    assert engine.stats()[DRAFT_TOKENS] == 2
    assert engine.stats()[ACCEPTED_DRAFT_TOKENS] == (2 if wrong == 0 else wrong - 1)


@pytest.mark.parametrize("caching", [False, True])
def test_who_is_preempted_while_its_draft_is_checked_comes_back_when_it_is_known(caching: bool) -> None:
    engine = toy_engine(
        num_blocks=64, async_scheduling=True, speculative_tokens=4, enable_prefix_caching=caching, max_num_seqs=9
    )
    requests = [request(str(i), [i + 1, 2, 3], priority=1, max_tokens=7) for i in range(9)]
    started(engine, requests, {"8": Drafts(requests[8], {1})})
    outputs: dict[str, list[Any]] = {r.request_id: [] for r in requests}
    last = engine.sequences["8"]
    while not last.in_check:
        for output in engine.step():
            outputs[output.request_id].append(output)
    known = last.num_output
    urgent = request("urgent", [4, 5], max_tokens=3)
    started(engine, [urgent], {})
    run = engine.step()  # reads the draft's check, though the sequence has left the batch
    for output in run:
        outputs[output.request_id].append(output)
    assert last in engine.scheduler.waiting
    assert (last.in_check, last.computed, last.num_output) == (False, 0, known + 3)
    engine.check_integrity()
    run_to_end(engine, outputs)
    for one in [*requests, urgent]:
        assert tokens_of(outputs[one.request_id]) == naive(one)


def test_who_waits_for_a_check_after_a_preemption_is_not_admitted_and_holds_up_nobody() -> None:
    engine = toy_engine(max_num_seqs=2, max_num_batched_tokens=4)
    first, second, low = request("a", [1] * 9), request("b", [2] * 3), request("c", [3] * 9, priority=1)
    for one in (first, second, low):
        engine.add(one)
    engine.sequences["a"].in_check = True
    plan = engine.scheduler.schedule()
    assert {s.sequence.request.request_id for s in plan} == {"b", "c"}
    engine.scheduler.started(plan)
    plan = engine.scheduler.schedule()  # nor is anybody preempted for it
    assert [s.sequence.request.request_id for s in plan] == ["c"]
    engine.scheduler.started(plan)
    engine.sequences["a"].in_check = False
    assert "a" in [s.sequence.request.request_id for s in engine.scheduler.schedule()]


def test_on_a_real_network_others_take_their_tokens_from_a_step_that_checks_drafts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And write what they write without drafts."""
    monkeypatch.setattr(drafting, "MOST_DRAFTS", 1.5)
    found, checks = [], 0
    for drafts, overlap in ((0, False), (8, True)):
        config = EngineConfig(
            model=str(CHECKPOINT),
            device="cpu",
            dtype="float32",
            cpu_kernels="torch",
            num_kv_blocks=200,
            max_num_seqs=3,
            speculative_tokens=drafts,
            async_scheduling=overlap,
        )
        rank = Rank(config)
        rank.load()
        engine = rank.engine()
        for number in range(3):
            engine.add(request(str(number), [40 + number, 41, 42, 43, 44, 45] * 4, max_tokens=20))
        outputs: dict[str, list[int]] = {}
        while engine.has_work():
            for output in engine.step():
                outputs.setdefault(output.request_id, []).extend(output.token_ids)
            states = [(s.in_check, s.awaited is not None) for s in engine.sequences.values()]
            checks += (True, False) in states and (False, True) in states
        found.append(outputs)
    assert found[0] == found[1]
    assert checks > 0


def test_where_there_is_no_room_for_drafts_nobody_waits_for_them() -> None:
    def decoding(awaited: int | None) -> Sequence:
        one = Sequence(request("a", [1, 2] * 5, max_tokens=9), seed=0, arrival=0, limit=19, speculator=Speculator(4))
        one.tokens.append(1)
        one.awaited = awaited
        one.computed = one.length - 1
        return one

    assert drafting.await_tokens([decoding(awaited=0)] * 4, rows=5)
    assert not drafting.await_tokens([decoding(awaited=0)] * 5, rows=5)
    assert not drafting.await_tokens([decoding(awaited=None)] * 4, rows=5), "its tokens are there"
    ending = decoding(awaited=0)
    ending.limit = ending.length + 1
    assert not drafting.await_tokens([ending], rows=5)


@given(
    st.lists(st.integers(1, 4), min_size=3, max_size=12),
    st.integers(0, 2**63),
    st.sampled_from([0.0, 0.7, 1.3]),
    st.booleans(),
    st.sampled_from([drafting.MOST_DRAFTS, 1.5]),
)
@settings(max_examples=40, deadline=None)
def test_texts_are_those_without_drafts_and_without_overlap(
    prompt: list[int], seed: int, temperature: float, penalties: bool, share: float
) -> None:
    options = {"repetition_penalty": 1.1, "frequency_penalty": 0.1} if penalties else {}
    found = []
    for drafts, overlap in ((0, False), (6, False), (6, True), (0, True)):
        engine = toy_engine(num_blocks=256, speculative_tokens=drafts, async_scheduling=overlap)
        for number in range(3):
            params = {"max_tokens": 24, "temperature": temperature, "seed": seed + number, "top_p": 0.95, "logprobs": 1}
            engine.add(request(str(number), [*prompt, number + 1], **params, **(options if number else {})))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(drafting, "MOST_DRAFTS", share)
            outputs = run_to_end(engine)
        found.append({n: (tokens_of(o), [e for each in o for e in each.logprobs]) for n, o in outputs.items()})
    assert found == [found[0]] * 4
