"""llama.cpp's `/infill` and `/completion`; what editors make of them is in `tests/clients`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from deployments import errors
from deployments.api.llamacpp.self_stops import SelfStops
from deployments.protocol import Delta
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import ANSWER, MODEL, WINDOW, FakeBackend


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    *events, rest = response.text.split("\n\n")
    assert rest == ""
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def test_an_answer_has_llamacpps_shape(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answer = await post(client, "/completion", prompt="def f():", n_predict=100, return_tokens=True, seed=5)
    ids = [*fake_backend.tokens(), fake_backend.tokenizer.eos_id]
    prompt_tokens = len(fake_backend.requests[0].prompts[0])
    timings, settings = answer.pop("timings"), answer.pop("generation_settings")
    assert answer == {
        "index": 0,
        "content": ANSWER,
        "tokens": ids,
        "id_slot": -1,
        "stop": True,
        "model": MODEL,
        "tokens_predicted": len(ids),
        "tokens_evaluated": prompt_tokens,
        "prompt": "def f():",
        "has_new_line": True,
        "truncated": False,
        "stop_type": "eos",
        "stopping_word": "",
        "tokens_cached": 0,
    }
    assert (timings["prompt_n"], timings["cache_n"], timings["predicted_n"]) == (prompt_tokens, 0, len(ids))
    assert timings["prompt_ms"] > 0
    assert (settings["n_predict"], settings["seed"], settings["n_ctx"]) == (100, 5, WINDOW)


async def test_the_cursors_line_ends_the_prefix_and_files_come_first(
    client: httpx.AsyncClient, fake_backend: FakeBackend, tokenizer: Tokenizer
) -> None:
    await post(
        client,
        "/infill",
        input_prefix="import tax\n",
        prompt="x = ",
        input_suffix="\nprint(x)<|endoftext|>",
        input_extra=[{"filename": "tax.py", "text": "RATE = 7\n"}, {"text": "loose\n"}],
    )
    (ids,) = fake_backend.requests[0].prompts
    assert tokenizer.decode(ids, skip_special=False) == (
        "<filename>tax.py\nRATE = 7\n<|endoftext|>loose\n<|endoftext|>"
        "<fim_prefix><fim_suffix>\nprint(x)<|endoftext|><fim_middle>import tax\nx = "
    )
    assert ids.count(tokenizer.eos_id) == 2
    assert fake_backend.requests[0].params.max_tokens == WINDOW - len(ids)


async def test_what_is_too_long_is_cut(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    lines = "".join(f"v{i} = {i}\n" for i in range(300))
    await post(client, "/infill", input_prefix=lines, input_suffix=lines, n_predict=100)
    await post(client, "/completion", prompt=lines, n_predict=10_000)
    for request in fake_backend.requests:
        assert len(request.prompts[0]) + request.params.max_tokens <= WINDOW
        assert request.params.max_tokens >= 100


async def test_n_predict_0_warms_the_cache(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    """As llama.vim sends it when its ring of chunks has changed."""
    extra = [{"filename": "tax.py", "text": "RATE = 7\n"}]
    body = {"input_prefix": "", "input_suffix": "", "prompt": "", "input_extra": extra, "n_predict": 0}
    llama_vim = {"id_slot": 0, "samplers": [], "t_max_prompt_ms": 1, "t_max_predict_ms": 1, "temperature": 0.0}
    assert await post(client, "/infill", **body, **llama_vim, response_fields=[""]) == {}
    answer = await post(client, "/infill", **body)
    assert (answer["content"], answer["tokens_predicted"], answer["stop_type"]) == ("", 0, "limit")
    assert fake_backend.requests[0].params.max_tokens == 1
    (event,) = events_of(await client.post("/infill", json={**body, "stream": True}))
    assert (event["content"], event["stop"]) == ("", True)


async def test_several_completions_are_an_array(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answers = await post(client, "/completion", prompt=["a", "b"], n_cmpl=2)
    texts = [fake_backend.tokenizer.decode(fake_backend.tokens(i)) for i in range(4)]
    assert [(answer["index"], answer["content"]) for answer in answers] == list(enumerate(texts))
    assert len(await post(client, "/infill", input_prefix="a", n_cmpl=3, response_fields=["content"])) == 3


async def test_response_fields_choose(client: httpx.AsyncClient) -> None:
    fields = ["content", "timings/predicted_n", "generation_settings/n_ctx", "no/such", "truncated"]
    answer = await post(client, "/completion", prompt="a", response_fields=fields, stop=["("])
    assert answer == {
        "content": "def größe",
        "timings/predicted_n": answer["timings/predicted_n"],
        "generation_settings/n_ctx": WINDOW,
        "truncated": False,
    }


async def test_a_stream_ends_with_the_statistics(client: httpx.AsyncClient) -> None:
    body = {"prompt": "a", "stream": True, "stop": ["return"], "n_probs": 2}
    *parts, last = events_of(await client.post("/completion", json=body))
    assert "".join(part["content"] for part in parts) == ANSWER.split("return")[0]
    assert [part["stop"] for part in parts] == [False] * len(parts)
    assert all(len(part["completion_probabilities"][0]["top_logprobs"]) == 2 for part in parts)
    assert (last["content"], last["stop"], last["stop_type"], last["stopping_word"]) == ("", True, "word", "return")
    assert last["timings"]["predicted_n"] > len(parts)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stop": ["return"]},
        {"stop": ["return a * b"]},
        {"stop": ["never said by anybody", " + b  # 漢字 ?"]},
        {"n_predict": 5},
        {"n_indent": 8},
        {"n_cmpl": 2},
        {"completion_mode": "auto"},
        {"completion_mode": "line", "stop": ["("]},
    ],
)
async def test_a_stream_has_each_token_and_its_probabilities_once(
    client: httpx.AsyncClient, options: dict[str, Any]
) -> None:
    body = {"prompt": "def f():\n    ", "n_probs": 2, "return_tokens": True, **options}
    answers = await post(client, "/completion", **body)
    events = events_of(await client.post("/completion", json={**body, "stream": True}))
    for answer in answers if isinstance(answers, list) else [answers]:
        said = [event for event in events if event["index"] == answer["index"]]
        assert "".join(event["content"] for event in said) == answer["content"]
        assert [token for event in said for token in event["tokens"]] == answer["tokens"]
        probabilities = [entry for event in said for entry in event["completion_probabilities"]]
        assert probabilities == answer["completion_probabilities"]
        assert [entry["id"] for entry in probabilities] == answer["tokens"]


async def test_options_become_sampling_parameters(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    await post(client, "/completion", prompt="a", repeat_penalty=1.3, logit_bias=[[7, False], ["8", 2.5]], seed=-1)
    await post(client, "/completion", prompt="a", temperature=-1, logit_bias={"7": -200}, grammar="x", mirostat=2)
    first, second = (request.params for request in fake_backend.requests)
    assert (first.temperature, first.top_k, first.top_p, first.repetition_penalty) == (0.8, 40, 0.95, 1.3)
    assert (first.logit_bias, first.seed) == ({7: -100.0, 8: 2.5}, None)
    assert (second.temperature, second.logit_bias) == (0.0, {7: -100.0})


async def test_time_is_up_after_a_whole_line(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    fake_backend.gate = asyncio.Event()
    fake_backend.gate.set()
    answer = await post(client, "/infill", input_prefix="a", t_max_predict_ms=1)
    assert "\n" in answer["content"]
    assert ANSWER.startswith(answer["content"])
    assert fake_backend.closed


def test_a_deadline_needs_a_line() -> None:
    now = 0.0
    stops = SelfStops(0, 1000, clock=lambda: now)
    for now, text, reason in ((0.0, "a", None), (5.0, "b", None), (6.0, "c\nd", "length")):  # noqa: B007
        delta = stops.apply(Delta(index=0, text=text))
        assert delta is not None
        assert (delta.text, delta.finish_reason) == (text, reason)
    assert stops.apply(Delta(index=0, text="e")) is None


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_less_indentation_ends_a_completion(size: int) -> None:
    text = "if x:\n        y()\n\n      \n    z()\nw()\n"
    for indent, expected in ((0, text), (1, text[: text.index("\nw")]), (5, "if x:\n        y()\n\n      ")):
        stops, kept = SelfStops(indent, 0), ""
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        for number, piece in enumerate(pieces, 1):
            reason: Any = "stop" if number == len(pieces) else None
            delta = stops.apply(Delta(index=0, text=piece, finish_reason=reason))
            kept += delta.text if delta else ""
        assert kept == expected
        assert stops.ended == 1


async def test_n_indent_ends_the_engines_work(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answer = await post(client, "/infill", input_prefix="a", n_indent=8)
    assert answer["content"] == "def größe(a, b):"
    assert answer["stop_type"] == "limit"
    assert answer["tokens_predicted"] < len(fake_backend.tokens())


async def test_failures_have_llamacpps_shape(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    for body in ({"n_predict": "x"}, {"logit_bias": [[1]]}, {"logit_bias": [["a", 1]]}, {"n_cmpl": 1000}):
        response = await client.post("/infill", json={"input_prefix": "a", **body})
        assert response.status_code == 400
        assert response.json()["error"].keys() == {"code", "message", "type"}
    fake_backend.failure = errors.EngineUnavailableError("Dead.")
    response = await client.post("/completion", json={"prompt": "a"})
    assert response.json() == {"error": {"code": 503, "message": "Dead.", "type": "unavailable_error"}}
    fake_backend.fail_at = 3
    events = events_of(await client.post("/completion", json={"prompt": "a", "stream": True}))
    assert events[-1]["error"]["code"] == 503
