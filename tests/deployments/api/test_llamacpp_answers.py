"""What llama.cpp's dialect makes of deltas, field by field and without a server."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx
import pytest

from deployments.api.common.context import ApiContext
from deployments.api.llamacpp.routes import LlamaCompletionRequest, completion_request, llama_error
from deployments.api.llamacpp.self_stops import SelfStops
from deployments.api.llamacpp.writer import LlamaWriter
from deployments.errors import (
    EngineUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ServeError,
)
from deployments.protocol import Delta, GenerationRequest, ModelInfo
from model.request import SamplingParams, TokenLogprobs
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import FakeBackend

MODEL = ModelInfo(id="the/model", max_model_len=100, created=1)
PROMPTS = [[11, 12, 13, 14], [15, 16]]


def writes(tokenizer: Tokenizer, *times: float, n: int = 1, prompts: int = 1, **options: Any) -> LlamaWriter:
    clock = iter(times)
    params = options.pop("params", SamplingParams(max_tokens=8))
    request = GenerationRequest(
        request_id="r", prompts=PROMPTS[:prompts], params=params, n=n, best_of=n, stop=options.pop("stop", ())
    )
    settings = {"n_predict": 8, "n_probs": 0, "return_tokens": False, "timings_per_token": False, "response_fields": []}
    return LlamaWriter(tokenizer, request, MODEL, **{**settings, **options}, clock=lambda: next(clock, times[-1]))


async def events(writer: LlamaWriter, *batches: list[Delta]) -> list[dict[str, Any]]:
    async def updates() -> AsyncGenerator[list[Delta], None]:
        for batch in batches:
            yield batch

    said = b"".join([event async for event in writer.to_events(updates())]).decode()
    return [json.loads(event.removeprefix("data: ")) for event in said.split("\n\n") if event]


def test_timings_are_parted_by_the_first_token(tokenizer: Tokenizer) -> None:
    writer = writes(tokenizer, 10.0, 10.5, 12.5)
    writer.add([Delta(index=0, text="a", token_ids=[21], cached_tokens=2)])
    writer.add([Delta(index=0, text="b", token_ids=[22, 23, 24], cached_tokens=2, finish_reason="stop")])
    (answer,) = writer.to_responses()
    assert answer["timings"] == {
        "cache_n": 2,
        "prompt_n": 2,
        "prompt_ms": 500.0,
        "prompt_per_token_ms": 250.0,
        "prompt_per_second": 4.0,
        "predicted_n": 4,
        "predicted_ms": 2000.0,
        "predicted_per_token_ms": 500.0,
        "predicted_per_second": 2.0,
    }
    assert (answer["tokens_cached"], answer["tokens_evaluated"], answer["tokens_predicted"]) == (2, 4, 4)


def test_nothing_is_divided_by_nothing(tokenizer: Tokenizer) -> None:
    """Of a clock that has not gone on, and of a prompt that was in the cache."""
    writer = writes(tokenizer, 10.0)
    delta = Delta(index=0, cached_tokens=4, finish_reason="stop")
    zeros = dict.fromkeys(
        ("prompt_ms", "prompt_per_token_ms", "predicted_ms", "predicted_per_token_ms", "prompt_per_second"), 0.0
    )
    expected = {**zeros, "predicted_per_second": 0.0, "cache_n": 4, "prompt_n": 0, "predicted_n": 0}
    assert writer.timings(delta) == expected
    writer.add([delta])
    assert writer.timings(delta) == expected
    writer = writes(tokenizer, 0.0, 0.5, 1.5)
    writer.add([Delta(index=0, text="a", token_ids=[21])])
    writer.add([Delta(index=0, cached_tokens=4, finish_reason="stop")])
    cached = writer.timings(Delta(index=0, cached_tokens=4))
    assert (cached["prompt_per_token_ms"], cached["predicted_per_token_ms"]) == (500.0, 1000.0)


def test_settings_are_those_that_were_asked_for(tokenizer: Tokenizer) -> None:
    params = SamplingParams(
        max_tokens=8,
        temperature=0.25,
        top_k=7,
        top_p=0.5,
        min_p=0.125,
        repetition_penalty=1.5,
        presence_penalty=0.75,
        frequency_penalty=0.375,
        seed=0,
        ignore_eos=True,
    )
    settings = {
        "n_ctx": 100,
        "model": "the/model",
        "n_predict": -1,
        "seed": 0,
        "temperature": 0.25,
        "top_k": 7,
        "top_p": 0.5,
        "min_p": 0.125,
        "repeat_penalty": 1.5,
        "presence_penalty": 0.75,
        "frequency_penalty": 0.375,
        "stop": ["x", "y"],
        "ignore_eos": True,
        "n_probs": 3,
    }
    ends = Delta(index=0, finish_reason="stop")
    writer = writes(tokenizer, 0.0, params=params, n_predict=-1, n_probs=3, stop=("x", "y"))
    writer.add([ends])
    assert writer.to_responses()[0]["generation_settings"] == settings
    unseeded = writes(tokenizer, 0.0)
    unseeded.add([ends])
    assert unseeded.to_responses()[0]["generation_settings"]["seed"] == -1


@pytest.mark.parametrize(
    ("delta", "n_predict", "expected"),
    [
        (Delta(index=0, finish_reason="stop", stop_reason="end"), 8, ("word", "end")),
        (Delta(index=0, finish_reason="stop"), 8, ("eos", "")),
        (Delta(index=0, finish_reason="stop", stop_reason=9), 8, ("eos", "")),
        (Delta(index=0, finish_reason="length", stop_reason="end"), 8, ("limit", "")),
        (Delta(index=0, finish_reason="stop", stop_reason="end"), 0, ("limit", "")),
    ],
)
def test_why_it_ended(tokenizer: Tokenizer, delta: Delta, n_predict: int, expected: tuple[str, str]) -> None:
    writer = writes(tokenizer, 0.0, n_predict=n_predict)
    writer.add([delta])
    (answer,) = writer.to_responses()
    assert (answer["stop_type"], answer["stopping_word"]) == expected


def test_an_answer_says_what_was_asked(tokenizer: Tokenizer) -> None:
    writer = writes(tokenizer, 0.0, n=2, prompts=2, return_tokens=True)
    ends = {"token_ids": [21], "finish_reason": "stop"}
    writer.add([Delta(index=i, text="a\n" if i % 2 else "a", **ends) for i in (3, 1, 0, 2)])
    answers = writer.to_responses()
    assert [answer["index"] for answer in answers] == [0, 1, 2, 3]
    texts = [tokenizer.decode(prompt, skip_special=False) for prompt in PROMPTS]
    assert [answer["prompt"] for answer in answers] == [texts[0], texts[0], texts[1], texts[1]]
    assert [answer["tokens_evaluated"] for answer in answers] == [4, 4, 2, 2]
    assert [answer["has_new_line"] for answer in answers] == [False, True, False, True]
    for answer in answers:
        constant = {"tokens": [21], "id_slot": -1, "stop": True, "model": "the/model", "truncated": False}
        assert answer.items() >= {**constant, "tokens_predicted": 1, "tokens_cached": 0}.items()
        assert "completion_probabilities" not in answer
    assert json.loads(writer.to_json(several=True)) == answers
    assert json.loads(writer.to_json(several=False)) == answers[0]
    silent = writes(tokenizer, 0.0)
    silent.add([Delta(index=0, text="a", token_ids=[21], finish_reason="stop")])
    assert silent.to_responses()[0]["tokens"] == []


async def test_what_only_warms_the_cache_has_no_tokens(tokenizer: Tokenizer) -> None:
    delta = Delta(index=0, text="a\n", token_ids=[21], finish_reason="stop", ended_by="line", cached_tokens=1)
    writer = writes(tokenizer, 0.0, n_predict=0, return_tokens=True)
    (event,) = await events(writer, [delta])
    (answer,) = writer.to_responses()
    for said in (event, answer):
        assert (said["content"], said["tokens"], said["tokens_predicted"]) == ("", [], 0)
        assert (said["has_new_line"], said["timings"]["predicted_n"], said["timings"]["cache_n"]) == (False, 0, 1)
        assert "ended_by" not in said


async def test_a_part_says_where_its_completion_stands(tokenizer: Tokenizer) -> None:
    batches = [
        [Delta(index=0, text="a", token_ids=[21]), Delta(index=1, text="", token_ids=[22])],
        [Delta(index=0, text="b", token_ids=[23, 24]), Delta(index=1, text="c", token_ids=[25])],
        [Delta(index=0, token_ids=[26], finish_reason="stop", ended_by="line")],
        [Delta(index=1, finish_reason="length")],
    ]
    part = {"stop": False, "id_slot": -1, "tokens_evaluated": 4}
    said = await events(writes(tokenizer, 0.0, n=2), *batches)
    assert said[:3] == [
        {"index": 0, "content": "a", "tokens": [21], "tokens_predicted": 1, **part},
        {"index": 0, "content": "b", "tokens": [23, 24], "tokens_predicted": 3, **part},
        {"index": 1, "content": "c", "tokens": [22, 25], "tokens_predicted": 2, **part},
    ]
    first, second = said[3:]
    assert (first["index"], first["tokens"], first["content"], first["ended_by"]) == (0, [26], "", "line")
    assert (second["index"], second["tokens"], second["stop_type"], "ended_by" in second) == (1, [], "limit", False)
    timed = await events(writes(tokenizer, 0.0, 1.0, n=2, timings_per_token=True), *batches)
    assert [event["timings"]["predicted_n"] for event in timed] == [1, 3, 2, 4, 2]


def test_probabilities_are_those_of_the_likeliest(tokenizer: Tokenizer) -> None:
    entries = [TokenLogprobs(21, -0.5, [(22, -0.25), (21, -0.5), (23, float("-inf"))])]
    writer = writes(tokenizer, 0.0, n_probs=2)
    writer.add([Delta(index=0, text="a", token_ids=[21], logprobs=entries, finish_reason="stop")])
    (answer,) = writer.to_responses()

    def shown(token_id: int, logprob: float) -> dict[str, Any]:
        raw = tokenizer.token_bytes(token_id)
        return {"id": token_id, "token": raw.decode(errors="replace"), "bytes": list(raw), "logprob": logprob}

    best = [shown(22, -0.25), shown(21, -0.5)]
    assert answer["completion_probabilities"] == [{**shown(21, -0.5), "top_logprobs": best}]
    broken = next(i for i in range(tokenizer.vocab_size) if not _is_text(tokenizer.token_bytes(i)))
    (entry,) = writer._probabilities(Delta(index=0, logprobs=[TokenLogprobs(broken, float("-inf"), [])]))
    assert ("\ufffd" in entry["token"], entry["logprob"]) == (True, -9999.0)


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_what_the_engine_gave_up_is_no_answer(tokenizer: Tokenizer) -> None:
    with pytest.raises(EngineUnavailableError, match="gave up"):
        writes(tokenizer, 0.0).add([Delta(index=0, finish_reason="abort")])


def test_fields_are_chosen_by_their_paths(tokenizer: Tokenizer) -> None:
    fields = ["stop", "generation_settings/stop", "generation_settings/stop/x", "timings", "content/x", "x", ""]
    writer = writes(tokenizer, 0.0, response_fields=fields)
    writer.add([Delta(index=0, finish_reason="stop")])
    (answer,) = writer.to_responses()
    assert answer.keys() == {"stop", "generation_settings/stop", "timings"}
    assert (answer["stop"], answer["generation_settings/stop"]) == (True, [])


@pytest.mark.parametrize(
    ("pairs", "biases"),
    [
        ([[7, False], ["8", 2.5], [9, -3]], {7: -100.0, 8: 2.5, 9: -3.0}),
        ({"7": 200, "8": -200, "9": 100}, {7: 100.0, 8: -100.0, 9: 100.0}),
        ([[7, 1], [7, 2]], {7: 2.0}),
        ([], {}),
        ([[1234567890, 1]], {1234567890: 1.0}),
    ],
)
def test_biases(pairs: Any, biases: dict[int, float]) -> None:
    body = LlamaCompletionRequest.model_validate({"prompt": "x", "logit_bias": pairs})
    assert body.logit_bias == biases
    assert all(type(key) is int and type(bias) is float for key, bias in body.logit_bias.items())


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ("7", "must be a list of pairs"),
        ([7], "must hold pairs"),
        ([[7]], "must hold pairs"),
        ([[7, 1, 2]], "must hold pairs"),
        ([["\u0667", 1]], "must hold pairs"),
        ([["a", 1]], "by their ids"),
        ([[-7, 1]], "by their ids"),
        ([[12345678901, 1]], "by their ids"),
        ([[7, True]], "bias of token 7"),
        ([[7, "1"]], "bias of token 7"),
        ([[7, None]], "bias of token 7"),
    ],
)
def test_what_is_no_bias(pairs: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LlamaCompletionRequest.model_validate({"prompt": "x", "logit_bias": pairs})


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ModelNotFoundError("Gone."), 404, "not_found_error"),
        (EngineUnavailableError("Dead."), 503, "unavailable_error"),
        (InvalidRequestError("Wrong."), 400, "invalid_request_error"),
        (OverloadedError("Full."), 429, OverloadedError("Full.").type),
    ],
)
def test_kinds_of_failures(error: ServeError, status: int, kind: str) -> None:
    assert llama_error(error) == (status, {"error": {"code": status, "message": error.message, "type": kind}})


async def test_what_is_asked_of_the_engine(tokenizer: Tokenizer, fake_backend: FakeBackend) -> None:
    api = ApiContext(fake_backend, tokenizer)

    async def asked(**body: Any) -> GenerationRequest:
        return await completion_request(LlamaCompletionRequest.model_validate({"prompt": "x", **body}), api)

    plain = await asked()
    window = fake_backend.window - len(plain.prompts[0])
    assert (plain.params.max_tokens, plain.params.seed, plain.params.logprobs) == (window, None, None)
    assert (plain.n, plain.best_of, plain.stop) == (1, 1, ())
    full = await asked(n_predict=5, seed=0, n_probs=2, n_cmpl=3, stop=["end"], temperature=-0.5)
    assert (full.params.max_tokens, full.params.seed, full.params.logprobs) == (5, 0, 2)
    assert (full.n, full.best_of, full.stop, full.params.temperature) == (3, 3, ("end",), 0.0)
    for n_predict, most in ((-2, window), (-1, window), (0, 1), (1, 1)):
        assert (await asked(n_predict=n_predict)).params.max_tokens == most


async def test_what_is_asked_of_the_answer(client: httpx.AsyncClient) -> None:
    async def events_of(**body: Any) -> list[dict[str, Any]]:
        answer = await client.post("/completion", json={"prompt": "x", "n_predict": 3, "stream": True, **body})
        return [json.loads(event.removeprefix("data: ")) for event in answer.text.split("\n\n") if event]

    for timed in (False, True):
        *parts, last = await events_of(timings_per_token=timed, return_tokens=timed, n_probs=2 if timed else 0)
        assert parts
        assert ["timings" in part for part in parts] == [timed] * len(parts)
        assert ["completion_probabilities" in part for part in [*parts, last]] == [timed] * (len(parts) + 1)
        assert (last["generation_settings"]["n_predict"], last["generation_settings"]["n_probs"]) == (3, 2 * timed)
    assert [event.keys() for event in (await events_of(response_fields=["stop"]))[-1:]] == [{"stop"}]
    answer = (await client.post("/completion", json={"prompt": "x", "n_indent": 8})).json()
    assert answer["stop_type"] == "limit"


def ticking(*times: float) -> Iterator[float]:
    return iter(times)


def test_time_counts_from_the_first_token_and_ends_all_that_has_a_line() -> None:
    times = ticking(5.0, 5.0, 6.0, 6.5, 6.5, 7.0)
    stops = SelfStops(0, 1000, clock=lambda: next(times))
    said = [
        stops.apply(Delta(index=index, text=text))
        for index, text in ((0, "a\n"), (1, "b"), (0, "c"), (0, "d"), (1, "e"), (1, "f\n"))
    ]
    assert [delta and delta.finish_reason for delta in said] == [None, None, None, "length", None, "length"]
    assert [delta and delta.text for delta in said] == ["a\n", "b", "c", "d", "e", "f\n"]
    assert stops.ended == 2


def test_what_has_ended_by_itself_is_not_ended_again() -> None:
    stops = SelfStops(4, 1, clock=ticking(0.0, 9.0, 9.0).__next__)
    first = stops.apply(Delta(index=0, text="a\n"))
    last = stops.apply(Delta(index=0, text="    b\n  ", finish_reason="stop"))
    assert first is not None
    assert last is not None
    assert (first.text + last.text, last.finish_reason) == ("a\n    b\n  ", "stop")
    assert stops.apply(Delta(index=0, text="c")) is None
    assert stops.ended == 1


def test_each_completion_has_its_own_indentation() -> None:
    stops = SelfStops(2, 0)
    first, second = (stops.apply(Delta(index=index, text="a\n" + " " * index)) for index in (0, 2))
    assert first is not None
    assert second is not None
    assert (first.text, second.text) == ("a", "a")
    first, second = (stops.apply(Delta(index=index, text="b")) for index in (0, 2))
    assert first is not None
    assert second is not None
    assert (first.text, first.finish_reason) == ("", "length")
    assert (second.text, second.finish_reason) == ("\n  b", None)
    assert stops.ended == 1
