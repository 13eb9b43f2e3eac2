"""Both writers, over deltas that are made here: what an engine says rarely, or in another order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deployments.api.common.context import ApiContext
from deployments.api.openai.chat_answers import ChatWriter, UsageChunk
from deployments.api.openai.completions import CompletionRequest, CompletionWriter
from deployments.api.openai.logprobs import chat_logprobs, legacy_logprobs
from deployments.api.openai.schemas import UsageCounter
from deployments.attributed import Attribution, Source
from deployments.errors import EngineUnavailableError
from deployments.protocol import Delta, GenerationRequest
from model.request import SamplingParams, TokenLogprobs
from model.text.tokenizer import Tokenizer
from monitoring.version import package_version
from tests.support.scripted_backend import Scripted

PROMPTS = [[1, 2, 3], [4, 5]]
KNOWN = Source("a.py", 7, "MIT")


def asked(n: int = 1, prompts: int = 1, max_tokens: int = 8) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens)
    return GenerationRequest(request_id="r", prompts=PROMPTS[:prompts], params=params, n=n, best_of=n)


def chats(tokenizer: Tokenizer, *batches: list[Delta], n: int = 1, **options: Any) -> ChatWriter:
    return ChatWriter(ApiContext(Scripted(tokenizer, *batches), tokenizer), asked(n), "the/model", **options)


def completes(tokenizer: Tokenizer, *batches: list[Delta], request: GenerationRequest, **body: Any) -> CompletionWriter:
    api = ApiContext(Scripted(tokenizer, *batches), tokenizer)
    return CompletionWriter(api, CompletionRequest(prompt="x", **body), request, "the/model")


async def chunks(writer: ChatWriter | CompletionWriter) -> list[dict[str, Any]]:
    *events, done, rest = b"".join([events async for events in writer.to_events()]).decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def copied(start: int, end: int) -> list[Attribution]:
    return [Attribution(start, end, [KNOWN])]


def logprobs_of(*ids: int) -> list[TokenLogprobs]:
    return [TokenLogprobs(i, -0.5, [(i, -0.5), (i + 1, -1.5)]) for i in ids]


async def test_every_object_of_a_request_has_the_same_head(tokenizer: Tokenizer) -> None:
    ends = Delta(index=0, text="a", token_ids=[9], finish_reason="stop")
    writer = chats(tokenizer, [ends], usage_chunk="own")
    expected = {
        "id": "chatcmpl-r",
        "created": writer.head["created"],
        "model": "the/model",
        "system_fingerprint": f"starcoder-serve-{package_version()}",
    }
    whole, parts = writer.to_response([ends]), await chunks(writer)
    for answer, kind in ((whole, "chat.completion"), *((part, "chat.completion.chunk") for part in parts)):
        assert {key: answer[key] for key in answer.keys() - {"choices", "usage"}} == {**expected, "object": kind}
    legacy = completes(tokenizer, [ends], request=asked(), stream=True, stream_options={"include_usage": True})
    expected = {"id": "cmpl-r", "object": "text_completion", "created": legacy.head["created"], "model": "the/model"}
    for answer in (legacy.to_response([ends]), *await chunks(legacy)):
        assert {key: answer[key] for key in answer.keys() - {"choices", "usage"}} == expected
    assert 1_700_000_000 < legacy.head["created"] == int(legacy.head["created"])


@pytest.mark.parametrize(("where", "told"), [("none", [False] * 4), ("last", [False, False, False, True])])
async def test_a_stream_says_its_usage_where_the_last_completion_ends(
    tokenizer: Tokenizer, where: UsageChunk, told: list[bool]
) -> None:
    batches = [
        [Delta(index=0, text="a", token_ids=[9]), Delta(index=1, text="b", token_ids=[9])],
        [Delta(index=1, text="", token_ids=[8], finish_reason="stop")],
        [Delta(index=0, text="c", token_ids=[7], finish_reason="length")],
    ]
    said = await chunks(chats(tokenizer, *batches, n=2, usage_chunk=where))
    assert ["usage" in chunk for chunk in said] == told
    assert [chunk["choices"][0]["index"] for chunk in said] == [0, 1, 1, 0]
    if where == "last":
        assert said[-1]["usage"] == {
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 0},
        }


async def test_a_chunk_of_its_own_is_announced_by_nulls(tokenizer: Tokenizer) -> None:
    *parts, last = await chunks(
        chats(tokenizer, [Delta(index=0, text="a", token_ids=[9], finish_reason="stop")], usage_chunk="own")
    )
    assert [part["usage"] for part in parts] == [None]
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 1)


async def test_news_without_text_or_tokens_is_no_chunk(tokenizer: Tokenizer) -> None:
    empty = Delta(index=0, logprobs=[])
    ends = Delta(index=0, text="a", token_ids=[9], logprobs=logprobs_of(9), finish_reason="stop")
    first, *others = await chunks(chats(tokenizer, [empty], [ends], [], top_logprobs=1))
    assert others == []
    (choice,) = first["choices"]
    assert choice["delta"] == {"role": "assistant", "content": "a"}
    assert len(choice["logprobs"]["content"]) == 1
    legacy = completes(tokenizer, [empty], [ends], [], request=asked(), stream=True, logprobs=1)
    (chunk,) = await chunks(legacy)
    assert chunk["choices"][0]["text"] == "a"


def test_a_completion_that_ends_without_tokens_has_no_logprobs(tokenizer: Tokenizer) -> None:
    for nothing in (None, []):
        delta = Delta(index=0, logprobs=nothing, finish_reason="stop")
        (choice,) = chats(tokenizer, top_logprobs=1).to_response([delta])["choices"]
        assert choice["logprobs"] is None
        (choice,) = completes(tokenizer, request=asked(), logprobs=1).to_response([delta])["choices"]
        assert choice["logprobs"] is None


def test_log_probabilities_that_nobody_asked_for_are_not_told(tokenizer: Tokenizer) -> None:
    """The likeliest of several is found by them."""
    delta = Delta(index=0, text="a", token_ids=[9], logprobs=logprobs_of(9), finish_reason="stop")
    for writer in (chats(tokenizer), completes(tokenizer, request=asked())):
        assert writer.to_response([delta])["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(("strip_start", "text", "start", "end"), [(False, " \n  f(x)", 4, 8), (True, "f(x)", 0, 4)])
async def test_an_attribution_stands_where_the_client_has_the_text(
    tokenizer: Tokenizer, strip_start: bool, text: str, start: int, end: int
) -> None:
    pieces = [Delta(index=0, text=" \n", token_ids=[9]), Delta(index=0, text="  f", token_ids=[9])]
    last = Delta(index=0, text="(x)", token_ids=[9], finish_reason="stop", attributions=copied(4, 8))
    said = await chunks(chats(tokenizer, *([piece] for piece in (*pieces, last)), strip_start=strip_start))
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in said) == text
    (part,) = said[-1]["choices"][0]["attribution"]
    assert part == {"start": start, "end": end, "sources": [{"file": "a.py", "line": 7, "licence": "MIT"}]}
    assert not any("attribution" in chunk["choices"][0] for chunk in said[:-1])
    # Of two completions each has lost its own.
    both = [
        Delta(index=0, text="   g(y)", token_ids=[9], finish_reason="stop", attributions=copied(1, 7)),
        Delta(index=1, text="g(y)", token_ids=[9], finish_reason="stop", attributions=copied(1, 4)),
    ]
    choices = chats(tokenizer, n=2, strip_start=strip_start).to_response(both)["choices"]
    found = [(one["attribution"][0]["start"], one["attribution"][0]["end"]) for one in choices]
    assert found == [(0, 4) if strip_start else (1, 7), (1, 4)]


def test_an_attribution_stands_behind_what_is_echoed(tokenizer: Tokenizer) -> None:
    delta = Delta(index=0, text="f(x)", token_ids=[9], finish_reason="stop", attributions=copied(1, 4))
    request = asked()
    echoed = tokenizer.decode(request.prompts[0], skip_special=False)
    (choice,) = completes(tokenizer, request=request, echo=True).to_response([delta])["choices"]
    assert choice["text"] == echoed + "f(x)"
    (part,) = choice["attribution"]
    assert (part["start"], part["end"]) == (len(echoed) + 1, len(echoed) + 4)


def test_why_a_completion_ended(tokenizer: Tokenizer) -> None:
    ended = Delta(index=0, text="a", token_ids=[9], finish_reason="stop", stop_reason="\n", ended_by="line")
    blocked = Delta(index=0, text="a", token_ids=[9], finish_reason="stop", blocked=True)
    for writer, reasons in ((chats(tokenizer), {}), (completes(tokenizer, request=asked()), {"stop_reason": "\n"})):
        (choice,) = writer.to_response([ended])["choices"]
        assert choice.items() >= {"finish_reason": "stop", "ended_by": "line", **reasons}.items()
        (choice,) = writer.to_response([blocked])["choices"]
        assert (choice["finish_reason"], "ended_by" in choice) == ("content_filter", False)


async def test_where_nothing_was_to_be_generated_nothing_is_told_of_the_one_token(tokenizer: Tokenizer) -> None:
    delta = Delta(
        index=0,
        text="f(x)",
        token_ids=[9],
        logprobs=logprobs_of(9),
        finish_reason="stop",
        stop_reason=9,
        ended_by="superseded",
        attributions=copied(0, 4),
    )
    chat = chats(tokenizer, [delta], silent=True, top_logprobs=1)
    legacy = completes(tokenizer, [delta], request=asked(max_tokens=1), stream=True, max_tokens=0, logprobs=1)
    whole = chat.to_response([delta])
    assert whole["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": "length",
            "ended_by": "superseded",
        }
    ]
    assert whole["usage"]["completion_tokens"] == 0
    (chunk,) = await chunks(legacy)
    nothing = {"index": 0, "text": "", "logprobs": None, "finish_reason": "length", "stop_reason": None}
    assert chunk["choices"] == [nothing]
    # What has not ended yet is no news.
    goes_on = Delta(index=0, text="f", token_ids=[9])
    assert await chunks(chats(tokenizer, [goes_on], silent=True)) == []
    assert chats(tokenizer, silent=True).rest(goes_on)["finish_reason"] is None


def test_what_the_engine_gave_up_is_no_answer(tokenizer: Tokenizer) -> None:
    delta = Delta(index=0, text="a", token_ids=[9], finish_reason="abort")
    for writer in (chats(tokenizer), chats(tokenizer, silent=True), completes(tokenizer, request=asked())):
        with pytest.raises(EngineUnavailableError, match="gave up"):
            writer.to_response([delta])


def test_completions_are_told_in_order(tokenizer: Tokenizer) -> None:
    deltas = [Delta(index=i, text=str(i), token_ids=[9], finish_reason="stop") for i in (2, 0, 1)]
    choices = chats(tokenizer, n=3).to_response(deltas)["choices"]
    assert [(choice["index"], choice["message"]["content"]) for choice in choices] == [(0, "0"), (1, "1"), (2, "2")]
    choices = completes(tokenizer, request=asked(n=3), n=3).to_response(deltas)["choices"]
    assert [(choice["index"], choice["text"]) for choice in choices] == [(0, "0"), (1, "1"), (2, "2")]


def test_of_candidates_the_likeliest_token_by_token_are_kept(tokenizer: Tokenizer) -> None:
    """One without tokens comes last; a long one is not worse for its length."""

    def candidate(index: int, *logprobs: float) -> Delta:
        entries = [TokenLogprobs(9, logprob, []) for logprob in logprobs]
        return Delta(index=index, text=str(index), token_ids=[9] * len(entries), logprobs=entries, finish_reason="stop")

    deltas = [
        *(candidate(0), candidate(1, -0.6), candidate(2, -0.5, -0.5)),
        *(candidate(3, -3.0), candidate(4, -9.0, -0.1), candidate(5, -2.0)),
    ]
    request = GenerationRequest(
        request_id="r", prompts=PROMPTS, params=SamplingParams(max_tokens=8, logprobs=0), n=2, best_of=3
    )
    answer = completes(tokenizer, request=request, n=2, best_of=3).to_response(deltas)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        *((0, "2"), (1, "1")),
        *((2, "5"), (3, "3")),
    ]


def test_usage_counts_a_prompt_once_and_the_cache_as_it_was_before() -> None:
    """Later completions of a prompt find the blocks of the first."""
    usage = UsageCounter(asked(n=2, prompts=2), 8)
    usage.add([Delta(index=0, token_ids=[1], cached_tokens=0), Delta(index=1, token_ids=[1, 2], cached_tokens=2)])
    usage.add([Delta(index=2, token_ids=[1], cached_tokens=1), Delta(index=3, token_ids=[1], cached_tokens=2)])
    usage.add([Delta(index=2, token_ids=[1], cached_tokens=0), Delta(index=3, token_ids=[], cached_tokens=2)])
    assert usage.usage() == {
        "prompt_tokens": 5,
        "completion_tokens": 6,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


def test_what_json_cannot_write_is_a_very_small_number(tokenizer: Tokenizer) -> None:
    entries = [TokenLogprobs(9, float("-inf"), [(8, -0.5), (7, float("-inf"))])]
    token = {i: tokenizer.token_bytes(i).decode() for i in (7, 8, 9)}
    assert legacy_logprobs(tokenizer, [9], entries, [3], 2) == {
        "tokens": [token[9]],
        "token_logprobs": [-9999.0],
        "top_logprobs": [{token[8]: -0.5, token[7]: -9999.0, token[9]: -9999.0}],
        "text_offset": [3],
    }
    shown = {i: {"token": token[i], "bytes": list(tokenizer.token_bytes(i))} for i in token}
    assert chat_logprobs(tokenizer, entries, 1) == {
        "content": [{**shown[9], "logprob": -9999.0, "top_logprobs": [{**shown[8], "logprob": -0.5}]}]
    }
