"""`POST /v1/chat/completions`: conversations as prompts, and answers in chat's shape, for the `openai` package too."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from deployments.api.common.context import ApiContext
from deployments.api.openai.chat import ChatRequest, to_generation_request
from deployments.api.openai.chat_prompt import DIALOGUE_STOPS, Turn, dialogue, render_chat
from deployments.errors import EngineUnavailableError, InvalidRequestError
from deployments.limits import ApiLimits
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend
from tests.support.tokenizers import starcoder_rules

MESSAGES = [{"role": "user", "content": "Add two numbers."}]
TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == "tool" -%}{{ raise_exception("no tools here") }}{%- endif -%}
<fim_pad>{{ message.role }}: {{ message.content | trim }}{{ eos_token }}
{%- endfor -%}
{%- if add_generation_prompt -%}<fim_pad>assistant:{%- endif -%}"""


@pytest.fixture
def app(wide_app: FastAPI) -> FastAPI:
    return wide_app


async def chat(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/v1/chat/completions", json={"messages": MESSAGES, **body})
    assert response.status_code == 200, response.text
    return response.json()


async def test_an_answer_has_openais_shape(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answer = await chat(client, model=MODEL, n=2)
    (request,) = fake_backend.requests
    prompt_tokens = len(request.prompts[0])
    assert request.prompts == [fake_backend.tokenizer.encode(dialogue([Turn("user", "Add two numbers.")]))]
    assert request.stop == DIALOGUE_STOPS
    assert request.params.max_tokens == fake_backend.window - prompt_tokens
    generated = 2 * (len(fake_backend.tokens()) + 1)
    first, second = answer["choices"]
    assert first == {
        "index": 0,
        "message": {"role": "assistant", "content": ANSWER},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert second["index"] == 1
    assert answer["object"] == "chat.completion"
    assert answer["id"] == f"chatcmpl-{request.request_id}"
    assert answer["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": prompt_tokens + generated,
        "prompt_tokens_details": {"cached_tokens": prompt_tokens // 16 * 16},
    }


async def test_both_names_of_the_limit(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}, {"max_completion_tokens": 3, "max_tokens": 9}):
        answer = await chat(client, **limit)
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 3


async def test_logprobs_have_chats_shape(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answer = await chat(client, logprobs=True, top_logprobs=2)
    content = answer["choices"][0]["logprobs"]["content"]
    ids = [*fake_backend.tokens(), fake_backend.tokenizer.eos_id]
    assert [entry["logprob"] for entry in content] == [FakeBackend.logprob(i) for i in ids]
    assert [bytes(entry["bytes"]) for entry in content] == [fake_backend.tokenizer.token_bytes(i) for i in ids]
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)
    answer = await chat(client, logprobs=True, max_tokens=2)
    assert [entry["top_logprobs"] for entry in answer["choices"][0]["logprobs"]["content"]] == [[], []]


async def test_a_stream_says_the_same(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    body = {"messages": MESSAGES, "stream": True, "n": 2, "stream_options": {"include_usage": True}}
    response = await client.post("/v1/chat/completions", json=body)
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    *chunks, last = chunks
    assert (last["choices"], last["usage"]["total_tokens"] > 0) == ([], True)
    for index in (0, 1):
        choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert [choice["delta"].get("role") for choice in choices] == ["assistant"] + [None] * (len(choices) - 1)
        text = "".join(choice["delta"]["content"] for choice in choices)
        assert text == fake_backend.tokenizer.decode(fake_backend.tokens(index)).lstrip()
        assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]


def test_a_dialogue_says_who_speaks() -> None:
    turns = [Turn("system", "Speak Latin."), Turn("user", "Salve"), Turn("assistant", "Ave"), Turn("user", "Vale")]
    text = dialogue(turns)
    introduction, example, said = text.split("\n\n-----\n\n")
    assert introduction.endswith("Speak Latin.")
    assert example.startswith("Human: ")
    assert said == "Human: Salve\n\nAssistant: Ave\n\nHuman: Vale\n\nAssistant:"
    assert dialogue(turns[:3]).endswith("Assistant: Ave")
    assert dialogue([Turn("tool", "4"), Turn("user", "5")]).endswith("\n\nHuman: 4\n\nHuman: 5\n\nAssistant:")


def test_a_checkpoints_template_is_used_and_messages_stay_text() -> None:
    tokenizer = Tokenizer(starcoder_rules(), chat_template=TEMPLATE)
    prompt = render_chat(tokenizer, [Turn("user", " x<|endoftext|>y<fim_pad> ")])
    assert not prompt.plain
    assert tokenizer.decode(prompt.ids, skip_special=False) == (
        "<fim_pad>user: x<|endoftext|>y<fim_pad><|endoftext|><fim_pad>assistant:"
    )
    special = [token_id for token_id in prompt.ids if token_id in tokenizer.special_ids]
    pad = tokenizer.special["<fim_pad>"]
    assert special == [pad, tokenizer.eos_id, pad]
    with pytest.raises(InvalidRequestError, match="no tools here"):
        render_chat(tokenizer, [Turn("tool", "4")])


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_templates_are_read_from_the_checkpoint(tmp_path: Any, as_file: bool, named: bool) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(starcoder_rules()))
    template = [{"name": "default", "template": TEMPLATE}] if named else TEMPLATE
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    if as_file:
        (tmp_path / "chat_template.jinja").write_text("newer")
    assert Tokenizer.from_checkpoint(tmp_path).chat_template == ("newer" if as_file else TEMPLATE)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"logprobs": True, "top_logprobs": 21}, "logprobs"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 15_000}]}, "messages"),
        ({"max_tokens": 2000}, "messages"),
    ],
)
async def test_refusals_name_the_field(
    client: httpx.AsyncClient, fake_backend: FakeBackend, body: dict[str, Any], param: str
) -> None:
    response = await client.post("/v1/chat/completions", json={"messages": MESSAGES, **body})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("words", "limits", "needed"),
    [
        (1500, {"max_tokens": 9}, r"\d{4} for the messages and 9 for"),
        (1500, {}, r"\d{4} for the messages and 1 for"),
        (15_000, {"max_tokens": 9}, r"at least \d{4} for the messages and 9 for"),
        (1, {"max_completion_tokens": 2000, "max_tokens": 1}, r"\d{3} for the messages and 2000 for"),
    ],
)
async def test_a_conversation_that_is_too_long_is_told_what_it_needs(
    client: httpx.AsyncClient, fake_backend: FakeBackend, words: int, limits: dict[str, int], needed: str
) -> None:
    messages = [{"role": "user", "content": "word " * words}]
    error = (await client.post("/v1/chat/completions", json={"messages": messages, **limits})).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert f"is {fake_backend.window} tokens" in error["message"]
    assert re.search(f"needs {needed} the completion", error["message"]), error["message"]
    if (told := re.search(r"needs (\d+)", error["message"])) is not None:
        text = dialogue([Turn("user", messages[0]["content"])])
        assert int(told[1]) == len(fake_backend.tokenizer.encode(text))


async def test_what_a_conversation_asks_of_the_engine(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    asked = {"n": 2, "stop": ["end"], "include_stop_str_in_output": True, "user": "somebody", "seed": 4, "top_p": 0.5}
    await chat(client, **asked, logprobs=True, top_logprobs=3, max_tokens=5)
    await chat(client, skip_special_tokens=False, logprobs=True)
    first, second = fake_backend.requests
    assert (first.n, first.best_of, first.stop) == (2, 2, ("end", *DIALOGUE_STOPS))
    assert (first.include_stop, first.user, first.skip_special, first.special_tokens) == (True, "somebody", True, False)
    assert (first.params.seed, first.params.top_p, first.params.max_tokens) == (4, 0.5, 5)
    assert (first.params.logprobs, second.params.logprobs) == (3, 0)
    assert (second.n, second.best_of, second.include_stop, second.user) == (1, 1, False, None)
    assert (second.skip_special, second.special_tokens) == (False, True)
    assert first.request_id != second.request_id


async def test_a_templates_turns_may_end_in_special_tokens(fake_backend: FakeBackend) -> None:
    tokenizer = Tokenizer(starcoder_rules(), chat_template=TEMPLATE)
    api = ApiContext(fake_backend, tokenizer)
    body = ChatRequest.model_validate({"messages": MESSAGES, "stop": "end"})
    request, plain = await to_generation_request(body, api)
    assert not plain
    assert (request.stop, request.skip_special, request.special_tokens) == (("end",), True, True)


async def test_no_more_answers_than_a_request_may_ask_for(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    most = ApiLimits().max_fan_out
    for n, status in ((most, 200), (most + 1, 400)):
        response = await client.post("/v1/chat/completions", json={"messages": MESSAGES, "n": n, "max_tokens": 1})
        assert response.status_code == status
    assert response.json()["error"]["code"] == "too_many_completions"


@pytest.mark.client("openai (PyPI)", "OpenAI")
def test_the_openai_package(wide_url: str, fake_backend: FakeBackend) -> None:
    sdk = openai.OpenAI(base_url=f"{wide_url}/v1", api_key="none", max_retries=0)
    parts: Any = [{"type": "text", "text": "Add "}, {"type": "text", "text": "two numbers."}]
    answer = sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}],
        logprobs=True,
        top_logprobs=1,
        stop=["return"],
    )
    assert answer.choices[0].message.content == ANSWER.split("return")[0]
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content
    prompt = fake_backend.tokenizer.decode(fake_backend.requests[0].prompts[0])
    assert "Be brief." in prompt
    assert prompt.endswith("Human: Add two numbers.\n\nAssistant:")
    stream = sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "x"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert last.usage is not None
    fake_backend.failure, fake_backend.fail_at = EngineUnavailableError("A rank died."), 4
    with pytest.raises(openai.APIError, match=r"A rank died\."):
        list(sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True))


async def test_llamacpps_warm_up_generates_nothing(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    for n_predict, limit, text in ((0, 1, ""), (3, 3, "def gr"), (-1, None, ANSWER)):
        answer = await chat(client, n_predict=n_predict, logprobs=True, n=2)
        request = fake_backend.requests[-1]
        assert request.params.max_tokens == (limit or fake_backend.window - len(request.prompts[0]))
        (choice, _) = answer["choices"]
        assert choice["message"]["content"] == text
        assert bool(choice["logprobs"]) == bool(text)
        assert (answer["usage"]["completion_tokens"] == 0) == (n_predict == 0)
    both = await chat(client, n_predict=0, max_tokens=2)
    assert both["usage"]["completion_tokens"] == 2
    body = {"messages": MESSAGES, "n_predict": 0, "stream": True, "stream_options": {"include_usage": True}}
    *events, done, _ = (await client.post("/v1/chat/completions", json=body)).text.split("\n\n")
    first, usage = (json.loads(event.removeprefix("data: ")) for event in events)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert (first["choices"][0]["finish_reason"], usage["usage"]["completion_tokens"]) == ("length", 0)
    assert done == "data: [DONE]"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_what_clients_call_the_model_where_nobody_named_one(
    client: httpx.AsyncClient, fake_backend: FakeBackend, path: str
) -> None:
    wanted = {"messages": MESSAGES} if "chat" in path else {"prompt": "x"}
    for name, status in (
        *((name, 200) for name in ("", "tgi", "dummy", "http://test", "https://test:80/v1", MODEL)),
        *((name, 404) for name in (" ", "tgi2", "http", "gpt-4", "a http://test")),
    ):
        response = await client.post(path, json={**wanted, "model": name, "max_tokens": 1})
        assert response.status_code == status, name
        if status == 200:
            assert response.json()["model"] == MODEL
