"""Bodies: what is wrong with one, in words; and what is told of fields that there are not."""

from __future__ import annotations

import threading
from typing import Annotated, Any, Literal

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError, model_validator
from starlette.responses import PlainTextResponse, Response

from deployments.api.common import json_body
from deployments.api.common.json_body import check_content_type, decode_json, validation_error
from deployments.api.common.off_loop import is_long, off_loop
from deployments.api.common.sampling import DialectModel
from deployments.api.common.unknown_fields import HEADER, UnknownField, tell, unknown_fields
from deployments.errors import InvalidRequestError
from deployments.protocol import Delta


class Inner(DialectModel):
    passed_over = frozenset({"hidden"})
    size: int = Field(default=1, ge=1)


class Outer(DialectModel):
    passed_over = frozenset({"outside"})
    prompt: str
    inner: Inner = Field(default_factory=Inner, alias="within")
    kind: Literal["a", "b"] = "a"
    ratio: Annotated[float, Field(le=1)] = 0.0
    several: list[int] = Field(default_factory=list)


def error_of(body: Any, model: Any = Outer) -> InvalidRequestError:
    with pytest.raises(ValidationError) as found:
        TypeAdapter(model).validate_python(body)
    return validation_error(found.value.errors())


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "prompt", "`prompt` is required."),
        ({"promt": "x"}, "prompt", "`prompt` is required (`promt` was sent)."),
        ({"elephant": "x"}, "prompt", "`prompt` is required."),
        ({**{f"a{i}": 1 for i in range(31)}, "promt": 1}, "prompt", "`prompt` is required (`promt` was sent)."),
        ({**{f"a{i}": 1 for i in range(32)}, "promt": 1}, "prompt", "`prompt` is required."),
        ({"prompt": 5}, "prompt", "`prompt`: input should be a valid string (got 5)."),
        ({"prompt": ["x"]}, "prompt", "`prompt`: input should be a valid string."),
        ({"prompt": True}, "prompt", "`prompt`: input should be a valid string (got True)."),
        ({"prompt": "x", "ratio": 1.5}, "ratio", "`ratio`: input should be less than or equal to 1 (got 1.5)."),
        ({"prompt": "x", "kind": "c"}, "kind", "`kind`: input should be 'a' or 'b' (got 'c')."),
        (
            {"prompt": "x", "within": {"size": 0}},
            "within.size",
            "`within.size`: input should be greater than or equal to 1 (got 0).",
        ),
        (
            {"prompt": "x", "several": [1, "b"]},
            "several.1",
            "`several.1`: input should be a valid integer (got 'b').",
        ),
        (
            {"prompt": 1, "kind": "c", "ratio": 2, "several": 3, "within": 4},
            "prompt",
            "`prompt`: input should be a valid string (got 1); `within`: input should be a valid dictionary or "
            "instance of Inner (got 4); `kind`: input should be 'a' or 'b' (got 'c'); and 2 more.",
        ),
        ([], None, "The body must be a JSON object."),
    ],
)
def test_what_is_wrong_with_a_body(body: Any, param: str | None, message: str) -> None:
    error = error_of(body)
    assert (error.message, error.param, error.code) == (message, param, "invalid_value")


def test_a_sentence_of_ours_is_told_as_it_is() -> None:
    def refuse(value: Any) -> Any:
        raise ValueError("Must be Nice")

    class Own(BaseModel):
        field: Annotated[str, BeforeValidator(refuse)] = ""

    class Whole(BaseModel):
        @model_validator(mode="after")
        def check(self) -> Whole:
            raise ValueError("These do not agree")

    assert error_of({"field": "x"}, Own).message == "`field`: must be Nice."
    assert error_of({}, Whole).message == "These do not agree."
    assert error_of({}, Whole).param is None


def test_where_a_request_stands_is_not_told() -> None:
    """Nor which of several schemas was tried."""
    error = {"type": "missing", "loc": ("body", "(openai)", "a", 0, "b"), "msg": "Field required", "input": 1}
    for place in ("body", "query", "path"):
        assert validation_error([{**error, "loc": (place, "(tabby)", "a", 0, "b")}]).param == "a.0.b"
    assert validation_error([{**error, "loc": ("header", "x-a")}]).param == "header.x-a"
    assert validation_error([error]).message == "`a.0.b` is required."


@pytest.mark.parametrize("length", [32, 33])
def test_a_long_name_is_not_compared(length: int) -> None:
    name = "p" * length
    error = {"type": "missing", "loc": ("body", "p" * 34), "msg": "Field required", "input": {name: 1}}
    assert ("was sent" in validation_error([error]).message) == (length == 32)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "but there is no Content-Type header"),
        ("", "but there is no Content-Type header"),
        (" ; charset=utf-8", "but there is no Content-Type header"),
        ("text/plain", "not 'text/plain'"),
        ("Text/JSON ; a=b", "not 'text/json'"),
        ("application/jsonx", "not 'application/jsonx'"),
        ("application/+json", "not 'application/+json'"),
        ("xapplication/json", "not 'xapplication/json'"),
    ],
)
def test_a_body_that_is_sent_as_something_else(given: str | None, told: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_content_type(given)
    assert refused.value.message == f"The body must be sent with 'Content-Type: application/json', {told}."
    assert (refused.value.status, refused.value.code) == (415, "unsupported_media_type")
    for fine in ("application/json", " Application/JSON ;charset=latin-1", "application/a.b+json"):
        check_content_type(fine)


@pytest.mark.parametrize(
    ("body", "words", "code"),
    [
        (b"", "The request has no body; send a JSON object.", "invalid_json"),
        (b"{", "The body is not valid JSON: Input data was truncated.", "invalid_json"),
        (b'["\xff"]', "The body is not valid UTF-8: invalid start byte at byte 2.", "invalid_json"),
        (b"[" * 5000 + b"]" * 5000, "The body is nested too deeply.", "invalid_json"),
        (b"[1e999]", "The body is not valid JSON: Number out of range", "invalid_json"),
        (b'["\\uD800"]', "half of a surrogate pair (\\ud800 to \\udfff), which is not text", "invalid_json"),
        (b'["\\uD83D\\uD83D\\uDE00"]', "half of a surrogate pair", "invalid_json"),
        (b'["\\uDE00"]', "half of a surrogate pair", "invalid_json"),
    ],
)
def test_what_is_no_json(body: bytes, words: str, code: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        decode_json(body)
    assert words in refused.value.message
    assert refused.value.code == code


def test_numbers_are_of_one_kind() -> None:
    found = decode_json(b'[16.0, 1e2, 0.5, -0.0, 7, 12345678901234567890, "\\uD83D\\uDE00"]')
    assert found == [16, 100, 0.5, 0, 7, 12345678901234567890, "\U0001f600"]
    assert [type(value) for value in found] == [int, int, float, int, int, int, str]


@pytest.mark.parametrize(("padding", "on_loop"), [(0, True), (1, False)])
async def test_a_long_body_is_read_off_the_event_loop(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, padding: int, on_loop: bool
) -> None:
    body = b'{"prompt": "x", "max_tokens": 1}'
    monkeypatch.setattr(json_body, "_THREAD_BYTES", len(body))
    validated, threads = json_body._validated, []

    def noting(body: bytes, field: Any) -> Any:
        threads.append(threading.current_thread())
        return validated(body, field)

    monkeypatch.setattr(json_body, "_validated", noting)
    sent = body + b" " * padding
    answer = await client.post("/v1/completions", content=sent, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert [thread is threading.current_thread() for thread in threads] == [on_loop]


async def test_what_is_long_is_done_in_a_thread() -> None:
    for long in (False, True):
        found = await off_loop(long, lambda *given, **named: (threading.get_ident(), given, named), 1, name=2)
        assert (found[0] == threading.get_ident(), *found[1:]) == (not long, (1,), {"name": 2})
    with pytest.raises(ZeroDivisionError):
        await off_loop(True, lambda: 1 // 0)


@pytest.mark.parametrize(
    ("deltas", "alternatives", "long"),
    [
        ([Delta(index=0, token_ids=[1] * 2000)], None, False),
        ([Delta(index=0, token_ids=[1] * 2000)], 0, False),
        ([Delta(index=0, token_ids=[1] * 2001)], None, True),
        ([Delta(index=0, token_ids=[1] * 1000), Delta(index=1, token_ids=[1] * 1001)], None, True),
        ([Delta(index=0, token_ids=[1] * 1000)], 1, False),
        ([Delta(index=0, token_ids=[1] * 1001)], 1, True),
        ([Delta(index=0, token_ids=[1], prompt_logprobs=[None] * 1999)], 0, False),
        ([Delta(index=0, token_ids=[1], prompt_logprobs=[None] * 2000)], 0, True),
        ([], 20, False),
    ],
)
def test_what_is_long(deltas: list[Delta], alternatives: int | None, long: bool) -> None:
    assert is_long(deltas, alternatives) == long


def test_fields_are_looked_for_where_they_were_sent() -> None:
    sent = {
        "prompt": "x",
        "within": {"size": 2, "sise": 3, "hidden": 1, "outside": 2},
        "hidden": 1,
        "outside": 1,
        "inner": {"a": 1},
        "nothing": None,
        "kind": "a",
    }
    found = unknown_fields(sent, Outer.model_validate(sent))
    assert [(field.within, field.name, field.model) for field in found] == [
        ("within.", "sise", Inner),
        ("within.", "outside", Inner),
        ("", "hidden", Outer),
        ("", "inner", Outer),
    ]
    assert [str(field) for field in found[:2]] == [
        "there is no field within.sise (did you mean 'size'?)",
        "there is no field within.outside",
    ]
    body = Outer(prompt="x")
    assert unknown_fields([sent], body) == []
    assert unknown_fields(sent, sent) == []
    assert len(unknown_fields({f"a{i}": 1 for i in range(9)}, body)) == 4


@pytest.mark.parametrize(
    ("name", "plain"),
    [("a" * 32, True), ("a" * 33, False), ("a-b.c_9", True), ("a b", False), ("\xe9", False), ("", False)],
)
def test_a_strange_name_is_cut_and_not_compared(name: str, plain: bool) -> None:
    field = UnknownField("", name, Outer)
    assert field.is_plain == plain
    assert str(field).isascii()
    assert len(str(field)) <= len("there is no field ") + 32 * 10 + 2
    assert str(UnknownField("a.", "promp\n", Outer)) == "there is no field a.'promp\\n'"


def test_the_answer_tells_where_it_is_one_object() -> None:
    found = [UnknownField("", "a", Outer), UnknownField("in.", "b", Outer)]
    sentences = ["there is no field a", "there is no field in.b"]
    answer = Response(b'{"x":1}', media_type="application/json")
    tell(answer, found)
    assert answer.body == b'{"x":1,"warnings":["there is no field a","there is no field in.b"]}'
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers[HEADER] == "; ".join(sentences)
    for other in (
        Response(b'{"x":1}', 400, media_type="application/json"),
        Response(b'[{"x":1}]', media_type="application/json"),
        Response(b"{}", media_type="application/json"),
        PlainTextResponse('{"x":1}'),
    ):
        before = other.body
        tell(other, found)
        assert (other.body, other.headers["content-length"]) == (before, str(len(before)))
        assert other.headers["x-warnings"] == "; ".join(sentences)
