"""Engines die under requests, and nobody who waits for them sees more of it than a pause."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import EngineUnavailableError, InvalidRequestError, OverloadedError
from deployments.http.resuming_backend import MOST_RESUMPTIONS, RETRY_AFTER_S, Progress, ResumingBackend
from deployments.protocol import Delta, EditorSession, GenerationRequest, StopRules, gather
from model.request import SamplingParams, TokenLogprobs
from model.text.tokenizer import Tokenizer
from monitoring import IngressMetrics
from tests.support.log_lines import captured
from tests.support.mortal_engine import Fleet
from tests.support.tokenizers import starcoder_rules
from tests.support.virtual_time import VirtualTimeLoop

Result = TypeVar("Result")
TIMEOUT_S = 30.0


@functools.cache
def tokens() -> Tokenizer:
    return Tokenizer(starcoder_rules())


def at_once(coroutine: Coroutine[Any, Any, Result]) -> Result:
    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


class Counted(IngressMetrics):
    """Remembers what became of requests whose engine died."""

    def __init__(self) -> None:
        super().__init__("test")
        self.resumed = self.lost = 0

    def engine_died(self, resumed: bool) -> None:
        super().engine_died(resumed)
        self.resumed += resumed
        self.lost += not resumed


def backend(fleet: Fleet, metrics: IngressMetrics | None = None, seed: int = 5) -> ResumingBackend:
    return ResumingBackend(fleet, TIMEOUT_S, random.Random(seed), metrics)


async def streamed(one: ResumingBackend, request: GenerationRequest) -> list[Delta]:
    """All news in order."""
    return [delta async for batch in one.stream(request) for delta in map(copied, batch)]


def copied(delta: Delta) -> Delta:
    return msgspec.structs.replace(delta)


def whole(deltas: list[Delta]) -> dict[int, dict[str, Any]]:
    """By completion, everything that a client could be told, whatever the pieces."""
    found: dict[int, Delta] = {}
    gather(found, map(copied, deltas))
    return {
        index: {name: value for name, value in msgspec.structs.asdict(delta).items() if name not in _OF_THE_ENGINE}
        for index, delta in sorted(found.items())
    }


_OF_THE_ENGINE = ("engine", "first_token_seconds", "ended_seconds", "queue_seconds")

rules = st.builds(
    StopRules,
    mode=st.sampled_from(["auto", "line", "block", "raw"]),
    language=st.just("python"),
    prefixes=st.just(("def f(x):\n    ",) * 2),
    suffixes=st.sampled_from([("",) * 2, ("\n    return x\n",) * 2]),
    settings=st.sampled_from([{}, *({"low_confidence": least} for least in (-1.2, -1.5, -1.8)), {"repetition": True}]),
)

requests = st.builds(
    lambda rules, **fields: GenerationRequest(
        request_id="r",
        rules=rules and msgspec.structs.replace(rules, needs_logprobs="low_confidence" in rules.settings),
        **fields,
    ),
    prompts=st.sampled_from([[[1, 2, 3]], [[1, 2, 3], [4]], [[7], [7]]]),
    params=st.builds(
        SamplingParams,
        max_tokens=st.integers(1, 60),
        min_tokens=st.sampled_from([0, 0, 7]),
        temperature=st.sampled_from([0.0, 1.0]),
        seed=st.sampled_from([None, 3]),
        logprobs=st.sampled_from([None, 1]),
        prompt_logprobs=st.sampled_from([None, 0]),
    ),
    best_of=st.integers(1, 3),
    n=st.just(1),
    stop=st.sampled_from([(), ("return",), ("\n\n", "漢字]"), ("class A:\n    y",)]),
    include_stop=st.booleans(),
    rules=st.none() | rules,
)


@given(request=requests, lives=st.lists(st.integers(0, 80), max_size=MOST_RESUMPTIONS), piece=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_a_stream_goes_on_exactly_where_it_was(request: GenerationRequest, lives: list[int], piece: int) -> None:
    async def both() -> None:
        undisturbed = await streamed(backend(Fleet(tokens(), [None], piece)), request)
        fleet, metrics = Fleet(tokens(), [*lives, None], piece), Counted()
        disturbed = await streamed(backend(fleet, metrics), request)
        assert whole(disturbed) == whole(undisturbed)
        assert sum(len(delta.token_ids) for delta in disturbed) == sum(len(delta.token_ids) for delta in undisturbed)
        asked_again = len(fleet.requests) - 1
        assert min(asked_again, 1) <= metrics.resumed <= asked_again
        assert metrics.lost == 0
        assert [service.admission.open for service in fleet.services] == [0] * len(fleet.services)
        assert [engine.open_requests for engine in fleet.engines] == [0] * len(fleet.engines)

    at_once(both())


@given(request=requests, lives=st.lists(st.integers(0, 80), max_size=MOST_RESUMPTIONS))
@settings(max_examples=100, deadline=None)
def test_a_whole_answer_is_the_same(request: GenerationRequest, lives: list[int]) -> None:
    async def both() -> None:
        undisturbed = await backend(Fleet(tokens(), [None])).generate(request)
        disturbed = await backend(Fleet(tokens(), [*lives, None])).generate(request)
        assert whole(disturbed) == whole(undisturbed)

    at_once(both())


@given(death=st.integers(0, 60), typed=st.integers(0, 30), max_tokens=st.integers(20, 50))
@settings(max_examples=60, deadline=None)
def test_text_that_was_typed_ahead_goes_on_as_well(death: int, typed: int, max_tokens: int) -> None:
    """A completion may begin with what an earlier request of its session was told; its engine's prompt differs then."""

    def asked(prefix: str, limit: int) -> GenerationRequest:
        session = EditorSession(key="k", prefix=prefix, prefix_length=len(prefix), surroundings="")
        params = SamplingParams(max_tokens=limit, temperature=0.0)
        return GenerationRequest(request_id="r", prompts=[tokens().encode(prefix)], params=params, session=session)

    async def both() -> None:
        answers = []
        for life in (None, death):
            fleet = Fleet(tokens(), [None, None])
            one = backend(fleet)
            first = "".join(delta.text for delta in await streamed(one, asked("def f", 20)))
            fleet.engines[0]._left = life
            answers.append(whole(await streamed(one, asked("def f" + first[:typed], max_tokens))))
        assert answers[0] == answers[1]

    at_once(both())


def greedy(max_tokens: int = 40, **fields: Any) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, min_tokens=max_tokens)
    return GenerationRequest(request_id="r", prompts=[[1, 2]], params=params, **fields)


def test_a_request_that_ends_engines_is_given_up() -> None:
    async def run() -> None:
        fleet, metrics = Fleet(tokens(), [5] * 9), Counted()
        with pytest.raises(EngineUnavailableError, match="3 engines died") as error:
            await streamed(backend(fleet, metrics), greedy())
        assert (error.value.status, error.value.code, error.value.retry_after) == (503, "engine_unavailable", None)
        assert len(fleet.requests) == 1 + MOST_RESUMPTIONS
        assert (metrics.resumed, metrics.lost) == (MOST_RESUMPTIONS, 1)

    at_once(run())


@pytest.mark.parametrize("streaming", [True, False])
def test_no_engine_comes_back(streaming: bool) -> None:
    """What was said before it is told; the error comes when the time is over, and not before."""

    async def run() -> None:
        fleet, metrics, said = Fleet(tokens(), [5]), Counted(), list[Delta]()
        one, clock = backend(fleet, metrics), asyncio.get_running_loop().time

        async def ask() -> None:
            async for batch in one.stream(greedy()):
                said.extend(batch)

        with pytest.raises(EngineUnavailableError, match="took the request over") as error:
            await (ask() if streaming else one.generate(greedy()))
        assert error.value.retry_after
        assert len(said) == (5 if streaming else 0)
        assert TIMEOUT_S <= clock() < TIMEOUT_S + 2
        assert (metrics.resumed, metrics.lost) == (0, 1)
        assert len(fleet.requests) < 60, "it asks too often"

    at_once(run())


@pytest.mark.parametrize("streaming", [True, False])
def test_each_death_is_told_of_once(streaming: bool) -> None:
    """In the log, under the client's id, and to the metrics."""

    async def run() -> None:
        fleet, metrics = Fleet(tokens(), [5, 10, None]), Counted()
        one, request = backend(fleet, metrics), greedy(client_request_id="from-the-client")
        with captured() as lines:
            await (streamed(one, request) if streaming else one.generate(request))
            told = lines.all("request.resuming")
        assert [line["request_id"] for line in told] == ["from-the-client"] * 2
        assert all(line["message"] for line in told)
        assert (metrics.resumed, metrics.lost) == (2 if streaming else 1, 0)

    at_once(run())


def test_what_an_engine_was_asked_does_not_change_under_it() -> None:
    async def run() -> None:
        fleet = Fleet(tokens(), [5, None])
        await streamed(backend(fleet), greedy())
        (earlier,) = fleet.requests[1].earlier
        assert len(earlier.token_ids) == 5

    at_once(run())


def test_it_waits_for_an_engine_that_comes_back() -> None:
    async def run() -> None:
        undisturbed = await streamed(backend(Fleet(tokens(), [None])), greedy())
        fleet = Fleet(tokens(), [5, None])
        (back,) = fleet.services[1:]
        del fleet.services[1:]
        asyncio.get_running_loop().call_later(20, fleet.services.append, back)
        assert whole(await streamed(backend(fleet), greedy())) == whole(undisturbed)

    at_once(run())


@pytest.mark.parametrize("error", [OverloadedError("full", retry_after=1), InvalidRequestError("no")])
def test_what_an_engine_refuses_is_refused(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        fleet = Fleet(tokens(), [None])

        def refuse(request: GenerationRequest) -> Any:
            fleet.requests.append(request)
            raise error

        monkeypatch.setattr(fleet, "_service", refuse)
        with pytest.raises(type(error)):
            await streamed(backend(fleet), greedy())
        assert len(fleet.requests) == 1

    at_once(run())


def test_a_full_engine_is_asked_again_where_another_one_died(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        undisturbed = await streamed(backend(Fleet(tokens(), [None])), greedy())
        fleet = Fleet(tokens(), [5, None])
        choose, full = fleet._service, [OverloadedError("full")] * 4

        def sometimes(request: GenerationRequest) -> Any:
            service = choose(request)
            if request.attempt and full:
                raise full.pop()
            return service

        monkeypatch.setattr(fleet, "_service", sometimes)
        assert whole(await streamed(backend(fleet), greedy())) == whole(undisturbed)

    at_once(run())


def test_time_runs_on_while_engines_die() -> None:
    async def run() -> None:
        fleet = Fleet(tokens(), [5, None])
        await streamed(backend(fleet), greedy(max_time_ms=60_000))
        first, second = (request.max_time_ms for request in fleet.requests)
        assert first == 60_000
        assert second is not None
        assert 0 < second <= 60_000

    at_once(run())


def test_tokens_are_counted_once_in_the_end() -> None:
    async def run() -> None:
        fleet = Fleet(tokens(), [5, None])
        counted: list[tuple[int, int]] = []
        recorder = fleet.metrics.of()
        recorder.tokens = lambda prompt, generated: counted.append((prompt, generated))  # type: ignore[method-assign]
        fleet.metrics.of = lambda *_: recorder  # type: ignore[method-assign]
        await streamed(backend(fleet), greedy(40))
        assert counted == [(2, 40)]
        assert fleet.metrics.finished == ["error", "length"]
        assert len(fleet.metrics.first) == 1, "the second engine's first token is nobody's first"

    at_once(run())


def test_a_resumed_request_does_not_overtake_what_was_typed_since() -> None:
    """Its session has gone on with a newer request, on the engine that takes it over."""

    def asked(prefix: str) -> GenerationRequest:
        session = EditorSession(key="k", prefix=prefix, prefix_length=len(prefix), surroundings="")
        return greedy(session=session)

    async def run() -> None:
        fleet = Fleet(tokens(), [5, None])
        one = backend(fleet)
        older = asyncio.create_task(streamed(one, asked("de")))
        while fleet.engines[0].dead is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        newer = await streamed(one, asked("def"))
        (last,) = [delta for delta in await older if delta.finish_reason is not None]
        assert last.ended_by == "superseded"
        assert newer[-1].finish_reason == "length"

    at_once(run())


def test_equal_prompts_without_a_seed_differ() -> None:
    request = GenerationRequest(request_id="r", prompts=[[7], [7]], params=SamplingParams(), best_of=2, drawn_seed=4)
    assert len({sequence.params.seed for sequence in request.sequences()}) == 4


def test_the_next_engine_is_told_the_probabilities_that_stop_rules_read() -> None:
    """As the client asked for them, or else as they came for the rules alone; of what was taken over, none twice."""
    rules = StopRules(needs_logprobs=True, prefixes=("",), suffixes=("",))
    progress = Progress(GenerationRequest(request_id="r", prompts=[[1]], params=SamplingParams(), rules=rules))
    assert progress.request().earlier == ()
    progress.saw([Delta(index=0, token_ids=[7, 8], rule_logprobs=[-0.25, -0.5])])
    progress.saw([Delta(index=0, token_ids=[9], logprobs=[TokenLogprobs(9, -1.0)], rule_logprobs=None)])
    (earlier,) = progress.request().earlier
    assert (earlier.token_ids, earlier.logprobs) == ([7, 8, 9], [-0.25, -0.5, -1.0])


def test_an_engine_that_says_no_more_before_the_end_counts_as_one_that_died() -> None:
    class Early:
        async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
            yield [Delta(index=0, token_ids=[7])]

    metrics = Counted()
    one = ResumingBackend(Early(), 0.0, random.Random(5), metrics)  # type: ignore[arg-type]
    with pytest.raises(EngineUnavailableError) as error:
        at_once(streamed(one, greedy()))
    assert error.value.message == (
        "The engine ended its answer before the end. No engine took the request over in time."
    )
    assert (error.value.status, error.value.retry_after, metrics.lost) == (503, RETRY_AFTER_S, 1)
