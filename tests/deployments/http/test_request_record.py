"""What becomes known of a request, step by step, and what its line says of it."""

from __future__ import annotations

import asyncio
from contextvars import Context
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.errors import InternalError, InvalidRequestError, OverloadedError, ServeError
from deployments.http import request_record
from deployments.http.request_record import RequestRecord, generated_after_first, report
from deployments.protocol import Delta, GenerationRequest
from model.request import SamplingParams
from monitoring.specs import FIRST_TOKEN_OBJECTIVE_S
from tests.support.accounts import ASKER, asking


class Timed(RequestRecord):
    """Of a request that came at 100 s."""

    def __init__(self, **fields: Any) -> None:
        self.now = 100.0
        super().__init__("r", "POST", "/v1/completions", clock=lambda: self.now, **fields)

    def after(self, seconds: float) -> Timed:
        self.now = 100.0 + seconds
        return self


def asked(prompts: int = 1, best_of: int = 1) -> GenerationRequest:
    return GenerationRequest(
        request_id="cmpl-1", prompts=[[1, 2, 3]] * prompts, params=SamplingParams(), n=best_of, best_of=best_of
    )


def test_a_line_says_all_that_is_known() -> None:
    record = Timed(given_id="no good", user_agent="editor/1", model="m", dialect="openai", texts={})
    record.of(ASKER)
    record.asked(asked(prompts=2, best_of=2))
    record.prompts, record.status, record.stream, record.engine = ["p"], 200, True, "e"
    record.span = SimpleNamespace(trace_id="t")  # type: ignore[assignment]
    record.after(1.23456).saw([Delta(index=1, token_ids=[7], text="ab", queue_seconds=0.5, cached_tokens=16)], True)
    record.after(1.5).sends_text()
    record.saw([Delta(index=1, text="c", token_ids=[8], finish_reason="stop", ended_by="repetition")], True)
    record.saw([Delta(index=0, text="d", finish_reason="length", ended_by="low_confidence", engine="f")], True)
    record.failed(ServeError("It died.", code="x", param="y"))
    assert record.after(2.00006).fields() == {
        "request_id": "r",
        "given_request_id": "no good",
        "team": "red",
        "key": "key_1",
        "model": "m",
        "dialect": "openai",
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "outcome": "failed",
        "stream": True,
        "sequences": 4,
        "prompt_tokens": 6,
        "cached_tokens": 16,
        "completion_tokens": 2,
        "finish_reasons": ["length", "stop"],
        "ended_by": ["low_confidence", "repetition"],
        "queue_ms": 500.0,
        "ttft_ms": 1500.0,
        "duration_ms": 2000.1,
        "error": {"code": "x", "param": "y", "message": "It died."},
        "engine": "f",
        "completion_ids": ["cmpl-1"],
        "trace_id": "t",
        "user_agent": "editor/1",
        "prompts": ["p"],
        "texts": ["d", "abc"],
    }


def test_what_never_became_a_request_of_an_engine_says_little() -> None:
    told = {name for name, value in Timed(stream=True).fields().items() if value is not None}
    assert told == {"request_id", "team", "method", "path", "outcome", "duration_ms"}
    record = Timed()
    record.asked(asked())
    assert record.fields()["sequences"] is None, "one is what everybody asks for"
    record.asked(asked())
    assert (record.fields()["sequences"], record.prompt_tokens) == (2, 6)


def test_until_text_was_sent_the_first_token_counts() -> None:
    record = Timed()
    record.after(0.25).saw([Delta(index=0, token_ids=[7], queue_seconds=0.125)], True)
    record.after(0.5).saw([Delta(index=0, token_ids=[8], queue_seconds=9.0)], True)
    assert (record.fields()["ttft_ms"], record.fields()["queue_ms"]) == (250.0, 125.0)


@pytest.mark.parametrize(
    ("error", "keeps_text", "told"),
    [
        (InvalidRequestError("quotes what was sent"), False, {}),
        (InvalidRequestError("quotes what was sent", param="stop"), False, {"param": "stop"}),
        (InvalidRequestError("quotes what was sent"), True, {"message": "quotes what was sent"}),
        (InvalidRequestError("plain", code="invalid_json"), False, {"code": "invalid_json", "message": "plain"}),
        (ServeError("ours", status=500), False, {"message": "ours"}),
        (ServeError("theirs", status=499), False, {}),
    ],
)
def test_of_an_error_the_line_has_what_quotes_no_client(error: ServeError, keeps_text: bool, told: object) -> None:
    record = Timed(texts={} if keeps_text else None)
    record.failed(error)
    assert record.fields()["error"] == told


def test_only_how_it_failed_first_counts() -> None:
    record, first, cause = Timed(), OverloadedError("full"), KeyError("x")
    record.failed(first, cause)
    record.failed(InvalidRequestError("no"), ValueError("y"))
    assert (record.error, record.exception) == (first, cause)


@pytest.mark.parametrize(
    ("deltas", "seconds"),
    [
        ([], 0.0),
        ([Delta(index=0, ended_seconds=2.0)], 0.0),
        ([Delta(index=0, first_token_seconds=0.5, ended_seconds=2.0)], 1.5),
        ([Delta(index=0, first_token_seconds=0.5), Delta(index=1, first_token_seconds=0.25, ended_seconds=1.0)], 0.75),
        ([Delta(index=0, ended_seconds=3.0), Delta(index=1, first_token_seconds=1.0, ended_seconds=2.0)], 2.0),
        ([Delta(index=0, first_token_seconds=2.0, ended_seconds=1.0)], 0.0),
    ],
)
def test_what_was_generated_behind_the_first_token_of_any(deltas: list[Delta], seconds: float) -> None:
    assert generated_after_first(deltas) == seconds


@pytest.mark.parametrize(("stream", "first_s"), [(True, 4.0), (False, 2.0)])
def test_for_the_rest_of_a_whole_answer_its_client_has_chosen_to_wait(stream: bool, first_s: float) -> None:
    record = Timed(stream=stream)
    deltas = [Delta(index=0, text="x", token_ids=[7], first_token_seconds=0.5, ended_seconds=2.5, finish_reason="stop")]
    record.after(3.0).saw(deltas, stream)
    assert record.ttft_s == (3.0 if stream else 1.0)
    assert record.text_waits
    record.after(4.0).sends_text()
    assert (record.text_waits, record.first_text_s) == (False, first_s)
    record.saw(deltas, stream)
    assert not record.text_waits, "it has text already"


@pytest.mark.parametrize(
    ("fields", "age", "counts"),
    [
        ({"received": True}, FIRST_TOKEN_OBJECTIVE_S + 0.25, True),
        ({"received": True}, FIRST_TOKEN_OBJECTIVE_S - 0.25, False),
        ({"received": False}, 99.0, False),
        ({"received": True, "awaited": False}, 99.0, False),
        ({"received": True, "sent_all": True}, 99.0, False),
        ({"received": True, "sent_all": True, "completion_ids": ["c"]}, 0.125, True),
        ({"received": True, "error": ServeError("x")}, 99.0, False),
        ({"received": True, "error": OverloadedError("x")}, 99.0, False),
        ({"received": True, "ended_by": {"superseded"}}, 99.0, True),
    ],
)
def test_what_counts_as_a_wait_of_who_got_no_text(fields: dict[str, Any], age: float, counts: bool) -> None:
    assert Timed(**fields).after(age).first_token_s() == (age if counts else None)


def test_nobody_waits_for_what_has_no_text_or_failed_before() -> None:
    for record, deltas in ((Timed(awaited=False), [Delta(index=0, text="x")]), (Timed(), [Delta(index=0)])):
        record.saw(deltas, True)
        assert not record.text_waits
    record = Timed(error=ServeError("x"), text_waits=True)
    record.after(2.0).sends_text()
    assert (record.text_waits, record.first_text_s, record.answered) == (False, None, False)


def test_a_blocked_completion_ends_when_it_is_blocked() -> None:
    with asking():
        record = Timed()
        record.make_current()
        record.after(1.0).saw([Delta(index=0, token_ids=[7], finish_reason="stop"), Delta(index=1)], True)
        record.after(3.0)
        request_record.blocked(1)
    assert (record.blocked, record.generated_s) == ({1}, 3.0)
    assert record.fields()["finish_reasons"] == ["content_filter", "stop"]
    record.saw([Delta(index=1, finish_reason="length")], True)
    assert record.fields()["finish_reasons"] == ["content_filter", "stop"], "whatever an engine says later"


async def test_whoever_learns_something_notes_it_and_where_there_is_no_request_nothing() -> None:
    def note() -> RequestRecord | None:
        request_record.set_dialect("tgi")
        request_record.received()
        request_record.nobody_waits()
        request_record.taken("a")
        request_record.whole("b")
        request_record.blocked(0)
        return request_record.current()

    with asking() as record:
        assert note() is record
    assert (record.dialect, record.received, record.awaited) == ("tgi", True, False)
    assert (record.taken_ids, record.whole_ids, record.blocked) == ({"a"}, {"b"}, {0})

    async def elsewhere() -> None:
        assert note() is None

    await asyncio.create_task(elsewhere(), context=Context())


@pytest.mark.parametrize("expected", [True, False])
def test_what_nobody_expected_is_told_with_the_id_of_its_request_once(expected: bool) -> None:
    cause = InternalError("It calls r-1 by its name.") if expected else KeyError("x")
    with asking() as record:
        found = report(cause, "r-1")
        assert report(found, "r-1") is found
    assert isinstance(found, InternalError)
    assert found.message.count("r-1") == 1
    assert expected or found.message.endswith(" It calls the request r-1.")
    assert (record.error, record.exception) == (found, None if expected else cause)
    with asking():
        assert "None" not in report(KeyError("x"), None).message
