"""npm's `@huggingface/inference` against a real server.

Its text generation has moved from TGI's routes to OpenAI's; the model it names, where nobody does, is the address of
the endpoint.
"""

from __future__ import annotations

import asyncio

import pytest

from deployments.errors import EngineUnavailableError, OverloadedError
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend
from tests.support.json_process import ClientDriver, ClientError
from tests.support.waiting import wait_until

pytestmark = pytest.mark.client("@huggingface/inference (npm)", "OpenAI")

MESSAGES = [{"role": "user", "content": "größe? 漢字 🎉"}]


@pytest.mark.parametrize("named", [{}, {"model": MODEL}])
def test_generate(huggingface_js: ClientDriver, backend: FakeBackend, url: str, named: dict[str, str]) -> None:
    parameters = {"max_new_tokens": 200, "stop": ["return"], "temperature": 0.2, "top_k": 5}
    answer = huggingface_js.call("generate", url=url, body={**named, "inputs": "# 漢字", "parameters": parameters})
    assert answer == {"generated_text": ANSWER.split("return")[0]}
    (request,) = backend.requests
    assert (request.params.max_tokens, request.params.top_k, request.stop) == (200, 5, ("return",))
    assert request.prompts == [backend.tokenizer.encode("# 漢字")]


def test_stream(huggingface_js: ClientDriver, url: str) -> None:
    chunks = huggingface_js.call(
        "streamGeneration", url=url, body={"inputs": "x", "parameters": {"max_new_tokens": 99}}
    )
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == ANSWER
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("named", [{}, {"model": MODEL}])
def test_chat(huggingface_js: ClientDriver, backend: FakeBackend, url: str, named: dict[str, str]) -> None:
    body = {**named, "messages": MESSAGES, "max_tokens": 200}
    answer = huggingface_js.call("chat", url=url, body=body)
    assert answer["choices"][0]["message"]["content"] == ANSWER
    assert MESSAGES[0]["content"] in backend.tokenizer.decode(backend.requests[0].prompts[0])
    chunks = huggingface_js.call("streamChat", url=url, body=body)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == ANSWER


def test_failures_are_its_own_errors(huggingface_js: ClientDriver, backend: FakeBackend, url: str) -> None:
    body = {"inputs": "x", "parameters": {"max_new_tokens": 200}}
    refusals = [
        ({"parameters": {"max_new_tokens": 10**6}}, 400, "context_length_exceeded"),
        ({"model": "gpt2"}, 404, "model_not_found"),
    ]
    for change, status, code in refusals:
        with pytest.raises(ClientError) as refused:
            huggingface_js.call("generate", url=url, body={**body, **change})
        assert refused.value.name == "InferenceClientProviderApiError"
        assert (refused.value.fields["status"], refused.value.fields["body"]["error"]["code"]) == (status, code)
    for failure, status in ((OverloadedError("Full."), 429), (EngineUnavailableError("Dead."), 503)):
        backend.failure = failure
        for call in ("generate", "streamGeneration"):
            with pytest.raises(ClientError) as failed:
                huggingface_js.call(call, url=url, body=body)
            assert (failed.value.name, failed.value.fields["status"]) == ("InferenceClientProviderApiError", status)
    backend.fail_at = 3
    with pytest.raises(ClientError, match=r"Dead\."):
        huggingface_js.call("streamGeneration", url=url, body=body)


def test_an_abort_reaches_the_backend(huggingface_js: ClientDriver, backend: FakeBackend, url: str) -> None:
    backend.gate = asyncio.Event()  # only the first token ever comes
    with pytest.raises(ClientError, match="abort"):
        huggingface_js.call("streamGeneration", url=url, body={"inputs": "x"}, abort_after=1)
    wait_until(lambda: len(backend.closed) == 1, "the request goes on without its client")
