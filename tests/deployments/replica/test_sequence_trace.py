"""The spans of a request on its replica: which there are, when they begin and end, and what they say."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.errors import OverloadedError, ServeError
from deployments.protocol import Delta, GenerationRequest
from deployments.replica.sequence_trace import MAX_TRACED_SEQUENCES, RequestTrace
from model.request import Output, Request, SamplingParams
from monitoring.spans import Carrier

CALLER = {"traceparent": "caller"}


class FakeSpan:
    """start_ns, end_ns: from the request's beginning."""

    def __init__(self, name: str, parent: Carrier, attributes: dict[str, Any], start_ns: int, kind: str) -> None:
        self.name, self.parent, self.attributes, self.kind = name, parent, dict(attributes), kind
        self.start_ns, self.end_ns = start_ns, -1
        self.failure: tuple[str, ...] = ()
        self.carrier = {"traceparent": name}

    def set(self, attributes: dict[str, Any]) -> None:
        self.attributes |= attributes

    def fail(self, *why: str) -> None:
        self.failure = why

    def end(self, end_ns: int | None = None) -> None:
        self.end_ns = -1 if end_ns is None else end_ns


class FakeTracing:
    enabled = True

    def __init__(self) -> None:
        self.spans: list[FakeSpan] = []

    def start(
        self, name: str, parent: Carrier, *, attributes: dict[str, Any], start_ns: int, kind: str = "internal"
    ) -> FakeSpan:
        self.spans.append(FakeSpan(name, parent, attributes, start_ns, kind))
        return self.spans[-1]


class Stand:
    def __init__(self, traced: bool = True, client_request_id: str = "theirs", prompts: int = 1) -> None:
        self.now = 100.0
        self.tracing = FakeTracing()
        self.request = GenerationRequest(
            request_id="ours",
            client_request_id=client_request_id,
            prompts=[[1, 2, 3]] * prompts,
            params=SamplingParams(),
            best_of=2,
            n=2,
            trace=CALLER if traced else {},
        )
        self.trace = RequestTrace(self.tracing, self.request, lambda: self.now, "abc")  # type: ignore[arg-type]

    def phases(self) -> dict[str, tuple[float, float, dict[str, Any]]]:
        """Name to beginning and end, in seconds from the request's beginning, and attributes."""
        engine, *phases = self.tracing.spans
        assert all(span.parent == engine.carrier for span in phases)
        return {
            span.name: (
                (span.start_ns - engine.start_ns) / 1e9,
                (span.end_ns - engine.start_ns) / 1e9,
                span.attributes,
            )
            for span in phases
        }


def test_a_sequence_is_queue_prefill_and_decode() -> None:
    stand = Stand()
    with stand.trace:
        (engine,) = stand.tracing.spans
        assert (engine.name, engine.parent, engine.kind) == ("engine", CALLER, "server")
        assert engine.attributes == {"starcoder.sequences": 2, "starcoder.request_id": "theirs"}
        stand.now += 1
        sequence = stand.trace.sequence(Request("ours-1", [1, 2, 3]), 1)
        stand.now += 3
        first = Delta(index=1)
        sequence.saw(Output("ours-1", [7, 8], queue_seconds=2.0, cached_tokens=1), first)
        assert (first.first_token_seconds, first.engine, first.ended_seconds) == (4.0, "abc", 0.0)
        stand.now += 4
        second = Delta(index=1, finish_reason="length")
        sequence.saw(Output("ours-1", [9], queue_seconds=9.0, cached_tokens=9), second)
        assert (second.first_token_seconds, second.ended_seconds) == (0.0, 8.0)
        sequence.ended("error")  # it has ended
    assert stand.phases() == {
        "queue": (1.0, 3.0, {"starcoder.sequence": 1}),
        "prefill": (
            3.0,
            4.0,
            {
                "starcoder.sequence": 1,
                "gen_ai.usage.input_tokens": 3,
                "gen_ai.usage.cache_read.input_tokens": 1,
            },
        ),
        "decode": (
            4.0,
            8.0,
            {"starcoder.sequence": 1, "gen_ai.usage.output_tokens": 3, "starcoder.finish_reason": "length"},
        ),
    }
    assert len(stand.tracing.spans) == 4
    assert stand.tracing.spans[0].failure == ()


def test_a_queue_that_is_said_to_be_longer_than_the_wait_ends_with_it() -> None:
    stand = Stand()
    sequence = stand.trace.sequence(Request("ours-0", [1]), 0)
    stand.now += 2
    sequence.saw(Output("ours-0", [7], queue_seconds=5.0), Delta(index=0, finish_reason="stop"))
    found = stand.phases()
    assert [found[name][:2] for name in ("queue", "prefill", "decode")] == [(0.0, 2.0), (2.0, 2.0), (2.0, 2.0)]


def test_of_one_that_ended_before_its_first_token_nobody_knows_whether_it_ran() -> None:
    stand = Stand()
    sequence = stand.trace.sequence(Request("ours-0", [1]), 0)
    stand.now += 2
    delta = Delta(index=0)
    sequence.saw(Output("ours-0", []), delta)
    assert (delta.first_token_seconds, delta.engine) == (0.0, "")
    sequence.ended("abort")
    assert stand.phases() == {"wait": (0.0, 2.0, {"starcoder.sequence": 0, "starcoder.finish_reason": "abort"})}


@pytest.mark.parametrize(
    ("error", "failure", "attributes"),
    [
        (OverloadedError("full"), ("overloaded", "full"), {}),
        (ServeError("odd", status=418), ("418", "odd"), {}),
        (KeyError("what a client sent"), ("KeyError",), {}),
        (GeneratorExit(), (), {"error.type": "cancelled"}),
    ],
)
def test_how_a_request_ended(error: BaseException, failure: tuple[str, ...], attributes: dict[str, str]) -> None:
    stand = Stand(client_request_id="")
    with pytest.raises(type(error)), stand.trace:
        raise error
    (engine,) = stand.tracing.spans
    assert engine.failure == failure
    assert engine.attributes == {"starcoder.sequences": 2, "starcoder.request_id": "ours"} | attributes


def test_so_many_sequences_of_a_request_are_traced_and_none_of_one_that_is_not() -> None:
    for stand, traced in ((Stand(prompts=20), MAX_TRACED_SEQUENCES), (Stand(traced=False, prompts=20), 0)):
        with stand.trace:
            for index in range(40):
                stand.trace.sequence(Request(f"ours-{index}", [1]), index).ended("abort")
        assert sum(span.name == "wait" for span in stand.tracing.spans) == traced
        assert len(stand.tracing.spans) == traced + bool(traced)
