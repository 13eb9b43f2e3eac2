"""PyPI's `text-generation`, TGI's own client, in its own environment against a real server."""

from __future__ import annotations

import asyncio

import pytest

from deployments.errors import EngineUnavailableError, OverloadedError
from tests.support.fake_backend import ANSWER, FakeBackend
from tests.support.json_process import ClientDriver, ClientError
from tests.support.waiting import wait_until

pytestmark = pytest.mark.client("text-generation (PyPI)", "TGI")

PROMPT = "# größe 漢字 🎉"


def test_generate(text_generation: ClientDriver, backend: FakeBackend, url: str) -> None:
    answer = text_generation.call(
        "generate", url=url, prompt=PROMPT, max_new_tokens=99, decoder_input_details=True, top_n_tokens=2
    )
    assert answer["generated_text"] == ANSWER
    details, ids = answer["details"], [*backend.tokens(), backend.tokenizer.eos_id]
    assert [token["id"] for token in details["tokens"]] == ids
    assert [token["id"] for token in details["prefill"]] == backend.tokenizer.encode(PROMPT)
    assert (details["finish_reason"], len(details["top_tokens"])) == ("eos_token", len(ids))


def test_options(text_generation: ClientDriver, url: str) -> None:
    stopped = text_generation.call("generate", url=url, prompt=PROMPT, max_new_tokens=99, stop_sequences=["return"])
    assert stopped["generated_text"] == ANSWER[: ANSWER.index("return") + 6]
    assert stopped["details"]["finish_reason"] == "stop_sequence"
    best = text_generation.call("generate", url=url, prompt=PROMPT, max_new_tokens=4, best_of=3, do_sample=True)
    assert len(best["details"]["best_of_sequences"]) == 2
    full = text_generation.call("generate", url=url, prompt=PROMPT, max_new_tokens=99, return_full_text=True)
    assert full["generated_text"] == PROMPT + ANSWER


def test_stream(text_generation: ClientDriver, url: str) -> None:
    parts = text_generation.call("generate_stream", url=url, prompt=PROMPT, max_new_tokens=99)
    assert "".join(part["token"]["text"] for part in parts if not part["token"]["special"]) == ANSWER
    assert parts[-1]["generated_text"] == ANSWER
    assert parts[-1]["details"]["finish_reason"] == "eos_token"


def test_failures_are_its_own_errors(text_generation: ClientDriver, backend: FakeBackend, url: str) -> None:
    for call in ("generate", "generate_stream"):
        with pytest.raises(ClientError, match="maximum context length") as refused:
            text_generation.call(call, url=url, prompt=PROMPT, max_new_tokens=10**6)
        assert refused.value.name == "ValidationError"
        for failure, name in (
            (OverloadedError("Full."), "OverloadedError"),
            (EngineUnavailableError("Dead."), "GenerationError"),
            (RuntimeError("secret"), "IncompleteGenerationError"),
        ):
            backend.failure = failure
            with pytest.raises(ClientError) as failed:
                text_generation.call(call, url=url, prompt=PROMPT)
            assert failed.value.name == name
    backend.failure, backend.fail_at = EngineUnavailableError("Dead."), 3
    with pytest.raises(ClientError, match=r"Dead\.") as failed:
        text_generation.call("generate_stream", url=url, prompt=PROMPT)
    assert failed.value.name == "GenerationError"


def test_an_abort_reaches_the_backend(text_generation: ClientDriver, backend: FakeBackend, url: str) -> None:
    backend.gate = asyncio.Event()  # only the first token ever comes
    parts = text_generation.call("generate_stream", url=url, prompt=PROMPT, abort_after=1)
    assert len(parts) == 1
    wait_until(lambda: len(backend.closed) == 1, "the request goes on without its client")


@pytest.mark.client("text-generation (PyPI)", "OpenAI")
def test_it_chats_with_a_model_called_tgi(text_generation: ClientDriver, backend: FakeBackend, url: str) -> None:
    """Whole answers only: its chat streams take `[DONE]` for JSON, which TGI itself sends too."""
    messages = [{"role": "user", "content": PROMPT}]
    answer = text_generation.call("chat", url=url, messages=messages, max_tokens=200)
    assert answer["choices"][0]["message"]["content"] == ANSWER
