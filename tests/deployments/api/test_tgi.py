"""Text Generation Inference's routes, for `huggingface_hub` and field by field."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import GenerationError, OverloadedError, ValidationError

from deployments import errors
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import ANSWER, MODEL, WINDOW, FakeBackend

PROMPT = "import math\n"


async def generate(client: httpx.AsyncClient, path: str = "/generate", **parameters: Any) -> Any:
    response = await client.post(path, json={"inputs": PROMPT, "parameters": parameters})
    assert response.status_code == 200, response.text
    return response.json()


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, rest = response.text.split("\n\n")
    assert rest == ""
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def test_plain_text_or_details(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    assert await generate(client) == {"generated_text": ANSWER}
    answer = await generate(client, details=True, seed=3, do_sample=True, top_n_tokens=2)
    ids = [*fake_backend.tokens(), fake_backend.tokenizer.eos_id]
    details = answer["details"]
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == ("eos_token", len(ids), 3)
    assert [token["id"] for token in details["tokens"]] == ids
    assert [token["logprob"] for token in details["tokens"]] == [FakeBackend.logprob(i) for i in ids]
    assert [token["special"] for token in details["tokens"]] == [False] * (len(ids) - 1) + [True]
    assert "".join(token["text"] for token in details["tokens"][:-1]) == ANSWER
    assert details["tokens"][-1]["text"] == "<|endoftext|>"
    assert [len(top) for top in details["top_tokens"]] == [2] * len(ids)
    assert details["prefill"] == []


async def test_the_prompt_can_be_scored(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    details = (await generate(client, decoder_input_details=True, max_new_tokens=1))["details"]
    ids = tokenizer.encode(PROMPT)
    assert [token["id"] for token in details["prefill"]] == ids
    assert [token["logprob"] for token in details["prefill"]] == [None] + [FakeBackend.logprob(i) for i in ids[1:]]
    assert details["finish_reason"] == "length"


async def test_a_stop_sequence_stays_in_the_text(client: httpx.AsyncClient) -> None:
    answer = await generate(client, stop=["a, b"], details=True)
    text = ANSWER[: ANSWER.index("a, b") + 4]
    assert answer["generated_text"] == text
    assert answer["details"]["finish_reason"] == "stop_sequence"
    assert "".join(token["text"] for token in answer["details"]["tokens"]) == text


async def test_arrays_where_tgi_answers_arrays(client: httpx.AsyncClient) -> None:
    for path in ("/", f"/models/{MODEL}"):
        assert await generate(client, path) == [{"generated_text": PROMPT + ANSWER}]
        assert await generate(client, path, return_full_text=False) == [{"generated_text": ANSWER}]
        body = {"inputs": PROMPT, "stream": True}
        assert events_of(await client.post(path, json=body))[-1]["generated_text"] == PROMPT + ANSWER
    assert await generate(client, "/generate", return_full_text=True) == {"generated_text": PROMPT + ANSWER}


async def test_a_stream_has_an_event_for_each_token(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    body = {"inputs": PROMPT, "parameters": {"details": True, "stop": ["return"]}}
    events = events_of(await client.post("/generate_stream", json=body))
    text = ANSWER[: ANSWER.index("return") + 6]
    assert [event["index"] for event in events] == list(range(1, len(events) + 1))
    assert "".join(event["token"]["text"] for event in events) == text
    assert [event["generated_text"] for event in events] == [None] * (len(events) - 1) + [text]
    assert events[-1]["details"] == {
        "finish_reason": "stop_sequence",
        "generated_tokens": len(events),
        "seed": None,
        "input_length": len(fake_backend.requests[0].prompts[0]),
    }


async def test_sampling_only_where_asked_for(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    for parameters, temperature in (
        ({}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"top_p": 0.9}, 1.0),
        ({"temperature": 0.2}, 0.2),
        ({"seed": 2**64 - 1}, 0.0),
    ):
        await generate(client, **parameters)
        assert fake_backend.requests[-1].params.temperature == temperature


async def test_best_of_answers_with_the_likeliest(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answer = await generate(client, best_of=3, do_sample=True, max_new_tokens=4, details=True)
    scores = [sum(map(FakeBackend.logprob, fake_backend.tokens(i)[:4])) for i in range(3)]
    found = [answer["details"], *answer["details"]["best_of_sequences"]]
    assert [pytest.approx(sum(t["logprob"] for t in one["tokens"])) for one in found] == sorted(scores, reverse=True)


async def test_truncation_and_room(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    await generate(client)
    assert fake_backend.requests[-1].params.max_tokens == WINDOW - len(fake_backend.requests[-1].prompts[0])
    body = {"inputs": "x = 1\n" * 500, "parameters": {"truncate": 40, "max_new_tokens": 5}}
    assert (await client.post("/generate", json=body)).status_code == 200
    assert len(fake_backend.requests[-1].prompts[0]) <= 40


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"best_of": 2}, "sampling"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "seed"),
        ({"grammar": {"type": "json", "value": {}}}, "grammar is not supported"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 100_000}, "maximum context length"),
        ({"top_n_tokens": 50}, "top_n_tokens"),
        ({"top_p": 0}, "top_p"),
    ],
)
async def test_refusals_have_tgis_shape(client: httpx.AsyncClient, parameters: dict[str, Any], message: str) -> None:
    response = await client.post("/generate", json={"inputs": "x", "parameters": parameters})
    assert response.status_code == 422
    assert response.json().keys() == {"error", "error_type"}
    assert response.json()["error_type"] == "validation"
    assert message in response.json()["error"]


async def test_other_failures_have_it_too(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    assert (await client.post("/generate", json={"inputs": ""})).status_code == 422
    assert (await client.post("/models/other", json={"inputs": "x"})).json()["error_type"] == "validation"
    malformed = await client.post("/generate", content=b"{", headers={"content-type": "application/json"})
    assert (malformed.status_code, malformed.json()["error_type"]) == (400, "validation")
    for failure, status, kind in (
        (errors.OverloadedError("Full.", retry_after=2), 429, "overloaded"),
        (errors.EngineUnavailableError("Dead."), 424, "generation"),
        (RuntimeError("secret"), 500, "incomplete_generation"),
    ):
        fake_backend.failure = failure
        for path in ("/generate", "/generate_stream"):
            response = await client.post(path, json={"inputs": "x"})
            assert (response.status_code, response.json()["error_type"]) == (status, kind)
            assert "secret" not in response.text
    fake_backend.fail_at = 3
    events = events_of(await client.post("/generate_stream", json={"inputs": "x"}))
    assert events[-1]["error_type"] == "incomplete_generation"


async def test_info(client: httpx.AsyncClient) -> None:
    info = (await client.get("/info")).json()
    assert (info["model_id"], info["max_total_tokens"], info["max_input_tokens"]) == (MODEL, WINDOW, WINDOW - 1)


@pytest.mark.client("huggingface_hub (PyPI)", "TGI")
def test_the_huggingface_hub_package(url: str, fake_backend: FakeBackend) -> None:
    hub = InferenceClient(model=url)
    text = hub.text_generation(PROMPT, stop=["return"], return_full_text=False)
    assert text == ANSWER[: ANSWER.index("return") + 6]
    assert hub.text_generation(PROMPT) == PROMPT + ANSWER  # as TGI's `POST /`, unless it is told not to
    whole = hub.text_generation(PROMPT, details=True, best_of=2, do_sample=True, max_new_tokens=50, top_n_tokens=1)
    assert whole.details is not None
    assert whole.details.best_of_sequences
    assert whole.details.tokens[0].logprob < 0
    pieces = list(hub.text_generation(PROMPT, stream=True, max_new_tokens=200))
    assert "".join(pieces) == ANSWER + "<|endoftext|>"  # TGI names the token that ended it
    *_, last = hub.text_generation(PROMPT, stream=True, details=True, max_new_tokens=200)
    assert last.generated_text == PROMPT + ANSWER
    assert last.details is not None
    assert last.details.finish_reason == "eos_token"
    named = InferenceClient(model=url, provider="hf-inference")
    assert named.get_endpoint_info()["model_id"] == MODEL
    assert named.health_check()
    with pytest.raises(ValidationError, match="maximum context length"):
        hub.text_generation(PROMPT, max_new_tokens=100_000)
    fake_backend.failure = errors.OverloadedError("Full.")
    with pytest.raises(OverloadedError):
        hub.text_generation(PROMPT)
    fake_backend.failure = errors.EngineUnavailableError("Dead.")
    with pytest.raises(GenerationError):
        hub.text_generation(PROMPT)


@pytest.mark.client("huggingface_hub (PyPI)", "OpenAI")
def test_huggingface_hub_chats_too(wide_url: str) -> None:
    hub = InferenceClient(base_url=wide_url)
    answer = hub.chat_completion([{"role": "user", "content": "Add two numbers."}], model=MODEL)
    assert answer.choices[0].message.content == ANSWER
    stream = hub.chat_completion([{"role": "user", "content": "Add."}], stream=True, max_tokens=200)  # names no model
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == ANSWER


async def test_an_impossible_model_id_is_refused_in_this_dialects_shape(client: httpx.AsyncClient) -> None:
    answer = await client.post("/models/%0Aa%2Fb", json={"inputs": "x"})
    assert answer.status_code == 404
    assert isinstance(answer.json()["error"], str)
