"""What `/v1/refactor` makes of requests and of deltas, field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deployments.api import refactor
from deployments.api.common.context import ApiContext
from deployments.errors import (
    ContextLengthError,
    EngineUnavailableError,
)
from deployments.protocol import Delta, GenerationRequest
from model.request import SamplingParams
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import WINDOW, FakeBackend
from tests.support.scripted_backend import Scripted


def request_of(*prompt: int) -> GenerationRequest:
    return GenerationRequest(request_id="r", prompts=[[*prompt]], params=SamplingParams(max_tokens=9))


@pytest.fixture
def api(tokenizer: Tokenizer) -> ApiContext:
    return ApiContext(FakeBackend(tokenizer), tokenizer)


async def test_a_refactorings_head_and_end(tokenizer: Tokenizer) -> None:
    deltas = [
        Delta(index=0, text="", token_ids=[21]),
        Delta(index=0, text="a\n", token_ids=[22]),
        Delta(index=0, text="b", token_ids=[23], finish_reason="length"),
    ]
    api = ApiContext(Scripted(tokenizer, *([delta] for delta in deltas)), tokenizer)
    body = refactor.RefactorRequest.model_validate({"code": "a\n", "instruction": "x", "filename": "f\ng"})
    usage = {"prompt_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}}
    diff = "--- a/f g\n+++ b/f g\n@@ -1 +1,2 @@\n a\n+b\n\\ No newline at end of file\n"
    ends = {"diff": diff, "finish_reason": "length"}
    head = {"id": "refactor-r", "model": "m"}
    writer = refactor.RefactorWriter(api, body, request_of(11, 12), "m")
    *events, done, rest = b"".join([event async for event in writer.to_events()]).decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    first, last = (json.loads(event.removeprefix("data: ")) for event in events)
    assert first == {**head, "object": "refactoring.chunk", "code": "a\n", "finish_reason": None}
    counted = {**usage, "completion_tokens": 3, "total_tokens": 5}
    assert last == {**head, "object": "refactoring.chunk", "code": "b", **ends, "usage": counted}
    whole = Delta(index=0, text="a\nb", token_ids=[21], finish_reason="length")
    answer = await refactor.RefactorWriter(api, body, request_of(11, 12), "m").to_response(whole)
    counted = {**usage, "completion_tokens": 1, "total_tokens": 3}
    assert answer == {**head, "object": "refactoring", "code": "a\nb", **ends, "usage": counted}
    with pytest.raises(EngineUnavailableError, match="gave up"):
        await writer.to_response(Delta(index=0, finish_reason="abort"))


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"filename": "a.py", "language": "python"}, "a.py"),
        ({"language": "python"}, "python"),
        ({}, "code"),
        ({"filename": "a\r\nb"}, "a  b"),
    ],
)
def test_the_file_of_a_diff(fields: dict[str, str], path: str) -> None:
    assert refactor.RefactorRequest.model_validate({"code": "", "instruction": "x", **fields}).path == path


async def test_what_a_refactoring_asks_of_the_engine(tokenizer: Tokenizer) -> None:
    api = ApiContext(FakeBackend(tokenizer, 5000), tokenizer)

    async def asked(code: str = "x = 1\n", **body: Any) -> GenerationRequest:
        fields = {"code": code, "instruction": "y", **body}
        return await refactor.to_generation_request(refactor.RefactorRequest.model_validate(fields), api)

    short, long = await asked(), await asked("x = 1\n" * 200)
    assert short.params.max_tokens == 256
    assert long.params.max_tokens == 2 * len(long.prompts[0]) > 256
    assert (await asked("a\r\n")).prompts == (await asked("a\n")).prompts
    assert ((await asked("a\r\n")).dos_prompts, short.dos_prompts) == ((0,), ())
    request = await asked(stop="end", user="me", skip_special_tokens=False, max_tokens=9)
    assert (request.stop, request.user, request.params.max_tokens) == (("end",), "me", 9)
    assert (request.skip_special, request.special_tokens) == (False, True)
    assert (short.skip_special, short.special_tokens, short.user) == (True, False, None)


@pytest.mark.parametrize(
    ("code", "fields", "needed"),
    [("x " * 9000, {}, "more"), ("x", {"max_tokens": 300}, "305"), ("x = 1\n" * 70, {}, r"[23]\d\d")],
)
async def test_code_that_is_too_long_is_told_what_it_needs(
    api: ApiContext, code: str, fields: dict[str, int], needed: str
) -> None:
    body = refactor.RefactorRequest.model_validate({"code": code, "instruction": "y", **fields})
    with pytest.raises(ContextLengthError, match=rf"is {WINDOW} tokens.* need {needed}\.") as refused:
        await refactor.to_generation_request(body, api)
    assert refused.value.param == "code"


def test_what_takes_long_to_compare_is_told_by_both_its_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refactor, "_MAX_DIFF_CHARS", 10)
    assert refactor.unified_diff("a\n" * 2, "b\n" * 3, "f") is not None
    assert refactor.unified_diff("a\n" * 3, "b\n" * 3, "f") is None
    monkeypatch.setattr(refactor, "_MAX_DIFF_CHARS", 1000)
    monkeypatch.setattr(refactor, "_MAX_DIFF_PAIRS", 6)
    same = "x\n" * 9
    assert refactor.unified_diff(same + "a\n" * 2 + same, same + "b\n" * 3 + same, "f") is not None
    assert refactor.unified_diff(same + "a\n" * 2 + same, same + "b\n" * 4 + same, "f") is None
    assert refactor.unified_diff(same, same * 2, "f") is not None, "nothing is left of the old"
    assert refactor.unified_diff("a", "a", "f") == ""
