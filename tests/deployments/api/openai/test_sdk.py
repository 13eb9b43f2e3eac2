"""The official `openai` package against a real server: sync, async, streaming, errors."""

from __future__ import annotations

import openai
import pytest

from deployments.errors import EngineUnavailableError, OverloadedError
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import ANSWER, MODEL, WINDOW, FakeBackend

pytestmark = pytest.mark.client("openai (PyPI)", "OpenAI")


@pytest.fixture
def sdk(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def async_sdk(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_complete(sdk: openai.OpenAI, tokenizer: Tokenizer) -> None:
    answer = sdk.completions.create(
        model=MODEL,
        prompt=["x = 1", "y = 2"],
        suffix="\nend",
        max_tokens=200,
        n=2,
        logprobs=3,
        stop=["return"],
        temperature=0.2,
        user="me",
        extra_body={"top_k": 5, "min_p": 0.1},
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    first = answer.choices[0]
    assert first.text == ANSWER.split("return")[0]
    assert first.finish_reason == "stop"
    assert first.logprobs is not None
    assert first.logprobs.tokens is not None
    assert first.logprobs.text_offset is not None
    assert len(first.logprobs.tokens) == len(first.logprobs.text_offset)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer._request_id


def test_stream(sdk: openai.OpenAI) -> None:
    chunks = list(
        sdk.completions.create(
            model=MODEL, prompt="x", max_tokens=200, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == ANSWER
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


async def test_async(async_sdk: openai.AsyncOpenAI) -> None:
    answer = await async_sdk.completions.create(model=MODEL, prompt="x", max_tokens=200)
    assert answer.choices[0].text == ANSWER
    text = ""
    async for chunk in await async_sdk.completions.create(model=MODEL, prompt="x", max_tokens=200, stream=True):
        text += chunk.choices[0].text
    assert text == ANSWER


def test_models(sdk: openai.OpenAI) -> None:
    (model,) = sdk.models.list().data
    assert (model.id, model.object) == (MODEL, "model")
    assert model.model_extra == {"max_model_len": WINDOW}
    assert sdk.models.retrieve(MODEL) == model


def test_errors(sdk: openai.OpenAI, fake_backend: FakeBackend) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        sdk.completions.create(model="other", prompt="x")
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as too_long:
        sdk.completions.create(model=MODEL, prompt="x", max_tokens=100_000)
    assert too_long.value.code == "context_length_exceeded"
    fake_backend.failure = OverloadedError("The queue is full.", retry_after=1)
    with pytest.raises(openai.RateLimitError) as overloaded:
        sdk.completions.create(model=MODEL, prompt="x", stream=True)
    assert overloaded.value.response.headers["retry-after"] == "1"


def test_an_error_event_ends_a_stream(sdk: openai.OpenAI, fake_backend: FakeBackend) -> None:
    fake_backend.failure, fake_backend.fail_at = EngineUnavailableError("A rank died."), 4
    stream = sdk.completions.create(model=MODEL, prompt="x", stream=True)
    assert next(stream).choices[0].text
    with pytest.raises(openai.APIError, match=r"A rank died\."):
        list(stream)


def test_overload_is_retried(url: str, fake_backend: FakeBackend) -> None:
    """The SDK obeys `Retry-After` and succeeds when the queue has room again."""
    fake_backend.failure = OverloadedError("The queue is full.", retry_after=1)
    fake_backend.failures_left = 1
    sdk = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=1)
    assert sdk.completions.create(model=MODEL, prompt="x", max_tokens=200).choices[0].text == ANSWER
    assert len(fake_backend.requests) == 2
