"""What TGI's dialect makes of requests and of deltas, field by field and without a server."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from deployments.api.common.context import ApiContext
from deployments.api.tgi.routes import GenerateRequest, tgi_error, to_events, to_generation_request, to_response
from deployments.api.tgi.tokens import TokenWriter
from deployments.errors import (
    EngineUnavailableError,
    ForbiddenError,
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RateLimitedError,
    ServeError,
    UnauthorizedError,
)
from deployments.limits import ApiLimits
from deployments.protocol import Delta, GenerationRequest
from model.request import SamplingParams, TokenLogprobs
from model.text.tokenizer import Tokenizer
from monitoring.version import package_version
from tests.support.fake_backend import ANSWER, MODEL, WINDOW, FakeBackend
from tests.support.scripted_backend import Scripted


def body_of(**parameters: Any) -> GenerateRequest:
    return GenerateRequest.model_validate({"inputs": "in", "parameters": parameters})


def spelt(tokenizer: Tokenizer, spelling: str, **fields: Any) -> Delta:
    """The tokens of a text, each less likely than the one before, with two alternatives."""
    ids = tokenizer.encode(spelling)
    logprobs = [TokenLogprobs(i, -0.5 - at, [(i, -0.5 - at), (i + 1, float("-inf"))]) for at, i in enumerate(ids)]
    return Delta(**{"index": 0, "text": spelling, "token_ids": ids, "logprobs": logprobs, **fields})


async def events(tokenizer: Tokenizer, *deltas: Delta, full_text: bool = False, **parameters: Any) -> list[Any]:
    api = ApiContext(Scripted(tokenizer, *([delta] for delta in deltas)), tokenizer)
    request = GenerationRequest(request_id="r", prompts=[[11, 12, 13]], params=SamplingParams(max_tokens=9))
    said = b"".join([event async for event in to_events(api, body_of(**parameters), request, full_text)]).decode()
    return [json.loads(event.removeprefix("data: ")) for event in said.split("\n\n") if event]


@pytest.mark.parametrize(
    ("error", "status", "message", "kind"),
    [
        (OverloadedError("Full."), 429, "Model is overloaded: Full.", "overloaded"),
        (RateLimitedError("Slower."), 429, "Slower.", "validation"),
        (UnauthorizedError("Who?"), 401, "Who?", "validation"),
        (ForbiddenError("No."), 403, "No.", "validation"),
        (InvalidRequestError("Odd."), 422, "Input validation error: Odd.", "validation"),
        (InvalidRequestError("Odd.", code="invalid_json"), 400, "Input validation error: Odd.", "validation"),
        (InvalidRequestError("Odd.", status=415), 415, "Input validation error: Odd.", "validation"),
        (ModelNotFoundError("Gone."), 404, "Input validation error: Gone.", "validation"),
        (EngineUnavailableError("Dead."), 424, "Request failed during generation: Dead.", "generation"),
        (InternalError("Lost."), 500, "Lost.", "incomplete_generation"),
        (ServeError("Lost.", status=504), 500, "Lost.", "incomplete_generation"),
    ],
)
def test_each_failure_has_tgis_status_and_words(error: ServeError, status: int, message: str, kind: str) -> None:
    assert tgi_error(error) == (status, {"error": message, "error_type": kind})


async def test_what_is_asked_of_the_engine(tokenizer: Tokenizer, fake_backend: FakeBackend) -> None:
    api = ApiContext(fake_backend, tokenizer)

    async def asked(stream: bool = False, **parameters: Any) -> GenerationRequest:
        return await to_generation_request(body_of(**parameters), api, stream=stream)

    plain = await asked()
    assert (plain.best_of, plain.n, plain.stop, plain.include_stop) == (1, 1, (), True)
    assert (plain.params.logprobs, plain.params.prompt_logprobs, plain.params.temperature) == (None, None, 0.0)
    assert plain.prompts == [tokenizer.encode("in")]
    for fields, stream, wanted in (
        ({"details": True}, False, (0, None)),
        ({"details": True, "top_n_tokens": 3}, False, (3, None)),
        ({"top_n_tokens": 3}, False, (None, None)),
        ({"top_n_tokens": 3}, True, (3, None)),
        ({"best_of": 2, "do_sample": True}, False, (0, None)),
        ({"decoder_input_details": True}, False, (None, 0)),
    ):
        params = (await asked(stream, **fields)).params
        assert (params.logprobs, params.prompt_logprobs) == wanted, fields
    several = await asked(best_of=3, top_k=5, stop=["end"], seed=None)
    assert (several.best_of, several.n, several.stop, several.params.top_k) == (3, 1, ("end",), 5)
    assert (await asked(seed=9)).params.seed == 9


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [({"top_k": 1}, 1.0), ({"top_p": 0.99}, 1.0), ({"typical_p": 0.99}, 1.0), ({"temperature": 1.5}, 1.5), ({}, 0.0)],
)
async def test_any_of_the_fields_asks_for_sampling(
    tokenizer: Tokenizer, fake_backend: FakeBackend, parameters: dict[str, Any], temperature: float
) -> None:
    api = ApiContext(fake_backend, tokenizer)
    params = (await to_generation_request(body_of(**parameters), api, stream=False)).params
    assert params.temperature == temperature


async def test_nobody_asked_for_more_than_1024_tokens(tokenizer: Tokenizer) -> None:
    for window in (1024, 1030, 4096):
        api = ApiContext(FakeBackend(tokenizer, window), tokenizer)
        request = await to_generation_request(body_of(), api, stream=False)
        assert request.params.max_tokens == min(1024, window - len(request.prompts[0]))


@pytest.mark.parametrize(
    ("parameters", "stream", "param", "words"),
    [
        ({"grammar": {}}, False, "grammar", "not supported"),
        ({"adapter_id": ""}, False, "adapter_id", "no adapters"),
        ({"best_of": 2, "do_sample": True}, True, "best_of", "streaming"),
        ({"best_of": 2}, False, "best_of", "sampling"),
        ({"best_of": 2, "do_sample": True, "seed": 0}, False, "seed", "best_of"),
        ({"decoder_input_details": True}, True, "decoder_input_details", "streaming"),
        ({"top_n_tokens": ApiLimits().max_logprobs + 1}, False, "top_n_tokens", str(ApiLimits().max_logprobs)),
        ({"best_of": ApiLimits().max_fan_out + 1, "do_sample": True}, False, None, "one request may ask for"),
    ],
)
async def test_what_is_refused(
    tokenizer: Tokenizer,
    fake_backend: FakeBackend,
    parameters: dict[str, Any],
    stream: bool,
    param: str | None,
    words: str,
) -> None:
    with pytest.raises(InvalidRequestError, match=words) as refused:
        await to_generation_request(body_of(**parameters), ApiContext(fake_backend, tokenizer), stream=stream)
    assert refused.value.param == param
    allowed = {"best_of": 1, "seed": 1, "top_n_tokens": ApiLimits().max_logprobs, "details": True}
    for streaming in (False, True):
        await to_generation_request(body_of(**allowed), ApiContext(fake_backend, tokenizer), stream=streaming)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"finish_reason": "length", "stop_reason": "x"}, "length"),
        ({"finish_reason": "stop"}, "eos_token"),
        ({"finish_reason": "stop", "stop_reason": "x"}, "stop_sequence"),
        ({"finish_reason": "stop", "stop_reason": 7}, "stop_sequence"),
        ({"finish_reason": "stop", "ended_by": "line"}, "stop_sequence"),
    ],
)
async def test_why_it_ended(
    tokenizer: Tokenizer, fake_backend: FakeBackend, fields: dict[str, Any], reason: str
) -> None:
    delta = spelt(tokenizer, "a = 1", **fields)
    answer = to_response(ApiContext(fake_backend, tokenizer), body_of(details=True, seed=3), [delta], False)
    details = answer["details"]
    assert (details["finish_reason"], details.get("ended_by")) == (reason, fields.get("ended_by"))
    assert (details["generated_tokens"], details["seed"], details["prefill"]) == (len(delta.token_ids), 3, [])
    assert "top_tokens" not in details
    *_, last = await events(tokenizer, delta, details=True, seed=3)
    told = {"finish_reason": reason, "generated_tokens": len(delta.token_ids), "seed": 3, "input_length": 3}
    assert last["details"] == {**told, **({"ended_by": "line"} if "ended_by" in fields else {})}


async def test_what_the_engine_gave_up_is_no_answer(tokenizer: Tokenizer, fake_backend: FakeBackend) -> None:
    delta = Delta(index=0, finish_reason="abort")
    with pytest.raises(EngineUnavailableError, match="gave up"):
        to_response(ApiContext(fake_backend, tokenizer), body_of(), [delta], False)
    with pytest.raises(EngineUnavailableError, match="gave up"):
        await events(tokenizer, delta)


def test_the_likeliest_is_the_answer_and_the_others_are_details(
    tokenizer: Tokenizer, fake_backend: FakeBackend
) -> None:
    """Token by token: a longer one is not worse for its length."""
    api, deltas = ApiContext(fake_backend, tokenizer), []
    for index, (text, logprobs) in enumerate((("a", [-2.0]), ("b", [-1.0, -1.0, -1.0]), ("c", [-3.0]))):
        entries = [TokenLogprobs(21, logprob, []) for logprob in logprobs]
        delta = Delta(index=index, text=text, token_ids=[21] * len(entries), logprobs=entries, finish_reason="stop")
        deltas.append(delta)
    body = body_of(details=True, best_of=3, do_sample=True)
    answer = to_response(api, body, deltas, True)
    assert answer["generated_text"] == "inb"
    assert answer["details"]["generated_tokens"] == 3
    assert [one["generated_text"] for one in answer["details"]["best_of_sequences"]] == ["ina", "inc"]
    assert to_response(api, body_of(best_of=3, do_sample=True), deltas, False) == {"generated_text": "b"}
    assert "best_of_sequences" not in to_response(api, body_of(details=True), deltas[:1], False)["details"]


async def test_an_event_for_each_token_and_the_text_in_the_last(tokenizer: Tokenizer) -> None:
    first, second = spelt(tokenizer, "def f"), spelt(tokenizer, "(a):", finish_reason="stop")
    count = len(first.token_ids) + len(second.token_ids)
    said = await events(tokenizer, first, second, full_text=True, top_n_tokens=1)
    assert [event["index"] for event in said] == list(range(1, count + 1))
    assert "".join(event["token"]["text"] for event in said) == "def f(a):"
    assert [event["generated_text"] for event in said] == [None] * (count - 1) + ["indef f(a):"]
    assert [event["details"] for event in said] == [None] * count
    for event, entry in zip(said, [*(first.logprobs or []), *(second.logprobs or [])], strict=True):
        assert (event["token"]["id"], event["token"]["logprob"]) == (entry.token_id, entry.logprob)
        assert [top["id"] for top in event["top_tokens"]] == [entry.token_id]
    plain = await events(tokenizer, first, second)
    assert not any("top_tokens" in event for event in plain)
    assert plain[-1]["generated_text"] == "def f(a):"


async def test_a_text_that_ends_without_a_token_ends_with_that_of_the_end(tokenizer: Tokenizer) -> None:
    first = spelt(tokenizer, "a")
    *_, last = await events(tokenizer, first, Delta(index=0, finish_reason="stop", logprobs=[]), details=True)
    end = {"id": tokenizer.eos_id, "text": "<|endoftext|>", "logprob": 0.0, "special": True}
    assert (last["token"], last["generated_text"]) == (end, "a")
    assert (last["index"], last["details"]["generated_tokens"]) == (2, 2)


def test_a_token_waits_for_its_text_and_none_goes_on_behind_the_end(tokenizer: Tokenizer) -> None:
    writer = TokenWriter(tokenizer, 2)
    whole = spelt(tokenizer, "foo(bar)")
    held = writer.write(Delta(index=0, text="", token_ids=whole.token_ids, logprobs=whole.logprobs))
    assert held == []
    some = writer.write(Delta(index=0, text="foo", logprobs=[]))
    assert "foo".startswith("".join(token["text"] for token, _ in some))
    rest = writer.write(Delta(index=0, text="(b", logprobs=[], finish_reason="stop"))
    assert "".join(token["text"] for token, _ in [*some, *rest]) == "foo(b" == writer.text
    assert [token["id"] for token, _ in [*some, *rest]] == whole.token_ids
    _, alternatives = rest[-1]
    chosen = whole.token_ids[-1]
    assert [(one["id"], one["logprob"]) for one in alternatives] == [
        (chosen, 0.5 - len(whole.token_ids)),
        (chosen + 1, -9999.0),
    ]
    assert alternatives[0] == {
        "id": chosen,
        "text": tokenizer.token_text(chosen),
        "logprob": 0.5 - len(whole.token_ids),
        "special": False,
    }


def test_what_is_left_of_a_character_belongs_to_the_last_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("漢")
    assert len(ids) > 1
    entries = [TokenLogprobs(i, -1.0, []) for i in ids[:-1]]
    writer = TokenWriter(tokenizer, 0)
    written = writer.write(Delta(index=0, text="\ufffd", token_ids=ids[:-1], logprobs=entries, finish_reason="length"))
    assert "".join(token["text"] for token, _ in written) == "\ufffd"
    assert written[-1][0]["text"] == "\ufffd"


def test_lines_end_as_the_documents_do(tokenizer: Tokenizer) -> None:
    delta = spelt(tokenizer, "a\nb\n", text="a\r\nb\r\n", finish_reason="stop")
    tokens = [token["text"] for token, _ in TokenWriter(tokenizer, 0, dos=True).write(delta)]
    assert "".join(tokens) == "a\r\nb\r\n"


async def test_an_answers_head_counts_its_tokens(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    for path in ("/generate", "/", f"/models/{MODEL}"):
        parameters = {"best_of": 2, "do_sample": True, "max_new_tokens": 3}
        response = await client.post(path, json={"inputs": "x = 1", "parameters": parameters})
        prompt = len(fake_backend.requests[-1].prompts[0])
        counts = response.headers["x-prompt-tokens"], response.headers["x-generated-tokens"]
        assert counts == (str(prompt), "6")


async def test_a_streams_text_begins_with_the_prompt_where_that_is_asked_for(client: httpx.AsyncClient) -> None:
    for path, wanted, text in (
        ("/generate_stream", None, ANSWER),
        ("/generate_stream", False, ANSWER),
        ("/generate_stream", True, "x" + ANSWER),
        ("/", None, "x" + ANSWER),
        ("/", False, ANSWER),
    ):
        body = {"inputs": "x", "parameters": {"return_full_text": wanted}, "stream": True}
        response = await client.post(path, json=body)
        last = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert last["generated_text"] == text, (path, wanted)


async def test_a_scored_prompt_is_spelt_and_has_its_details(
    client: httpx.AsyncClient, fake_backend: FakeBackend
) -> None:
    parameters = {"decoder_input_details": True, "max_new_tokens": 1}
    answer = await client.post("/generate", json={"inputs": "x = 漢", "parameters": parameters})
    details = answer.json()["details"]
    (ids,) = fake_backend.requests[-1].prompts
    assert [token["text"] for token in details["prefill"]] == [fake_backend.tokenizer.token_text(i) for i in ids]
    assert details["prefill"][0]["logprob"] is None
    assert (details["tokens"], details["generated_tokens"]) == ([], 1)


async def test_what_the_server_says_of_itself(new_client: httpx.AsyncClient) -> None:
    limits = ApiLimits()
    assert (await new_client.get("/info")).json() == {
        "model_id": MODEL,
        "model_sha": None,
        "model_dtype": "float32",
        "model_pipeline_tag": "text-generation",
        "max_best_of": limits.max_fan_out,
        "max_stop_sequences": limits.max_stop_strings,
        "max_input_tokens": WINDOW - 1,
        "max_input_length": WINDOW - 1,
        "max_total_tokens": WINDOW,
        "router": "starcoder-serve",
        "version": package_version(),
    }
