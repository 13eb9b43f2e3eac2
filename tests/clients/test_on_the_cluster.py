"""Every client that can be run, against the real engine behind real Ray: the same gap, and a client that goes away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import mistralai.client
import ollama
import openai
import pytest
from huggingface_hub import InferenceClient

from tests.clients.conftest import starts, tabby_environment
from tests.support.cluster import LONG, Cluster
from tests.support.json_process import ClientDriver, ClientError, TabbyAgent
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

BEFORE, AFTER, LIMIT = "def größe(a, b):\n    return", "\n\nprint(größe(1, 2))  # 漢字 🎉\n", 24
TEMPLATE = f"<fim_prefix><fim_suffix>{AFTER}<fim_middle>{BEFORE}"
OPTIONS: dict[str, Any] = {"max_tokens": LIMIT, "temperature": 0}
GAP: dict[str, Any] = {"prompt": BEFORE, "suffix": AFTER, **OPTIONS}

OPENAI_JS, HUGGINGFACE_JS = "openai (npm)", "@huggingface/inference (npm)"
CONTINUE, TEXT_GENERATION = "@continuedev/openai-adapters (npm)", "text-generation (PyPI)"

EDITORS = ("Mistral", "Ollama")
"""Dialects that may end where the code does."""

Where = tuple[str, str]
"""Address of the server and name of the model."""


def python_openai(where: Where, base: str) -> Iterator[str]:
    sdk = openai.OpenAI(base_url=where[0] + base, api_key="unused", max_retries=0)
    yield sdk.completions.create(model=where[1], **GAP).choices[0].text
    yield "".join(chunk.choices[0].text for chunk in sdk.completions.create(model=where[1], stream=True, **GAP))


def python_mistral(where: Where) -> Iterator[str]:
    sdk = mistralai.client.Mistral(api_key="unused", server_url=where[0])
    message = sdk.fim.complete(model=where[1], **GAP).choices[0].message
    assert message is not None
    yield str(message.content)
    with sdk.fim.stream(model=where[1], **GAP) as stream:
        yield "".join(str(event.data.choices[0].delta.content) for event in stream)


def python_ollama(where: Where) -> Iterator[str]:
    sdk, options = ollama.Client(host=where[0]), {"num_predict": LIMIT, "temperature": 0}
    yield sdk.generate(where[1], BEFORE, suffix=AFTER, options=options).response
    parts = sdk.generate(where[1], BEFORE, suffix=AFTER, options=options, stream=True)
    yield "".join(part.response for part in parts)


def python_huggingface(where: Where) -> Iterator[str]:
    sdk = InferenceClient(model=where[0])
    yield sdk.text_generation(TEMPLATE, max_new_tokens=LIMIT, return_full_text=False)
    details = sdk.text_generation(TEMPLATE, max_new_tokens=LIMIT, return_full_text=False, details=True, stream=True)
    yield [part.generated_text for part in details][-1] or ""


def text_generation(driver: ClientDriver, where: Where) -> Iterator[str]:
    options = {"url": where[0], "prompt": TEMPLATE, "max_new_tokens": LIMIT}
    yield driver.call("generate", **options)["generated_text"]
    yield driver.call("generate_stream", **options)[-1]["generated_text"]


def openai_js(driver: ClientDriver, where: Where, base: str) -> Iterator[str]:
    options = {"url": where[0] + base, "body": {"model": where[1], **GAP}}
    yield driver.call("complete", **options)["choices"][0]["text"]
    yield "".join(chunk["choices"][0]["text"] for chunk in driver.call("streamCompletion", **options))


def huggingface_js(driver: ClientDriver, where: Where) -> Iterator[str]:
    options = {"url": where[0], "body": {"inputs": TEMPLATE, "parameters": {"max_new_tokens": LIMIT, "temperature": 0}}}
    yield driver.call("generate", **options)["generated_text"]
    yield "".join(chunk["choices"][0]["text"] for chunk in driver.call("streamGeneration", **options))


def continue_js(driver: ClientDriver, where: Where, provider: str, path: str) -> Iterator[str]:
    options = {"provider": provider, "url": where[0] + path, "body": {"model": where[1], **GAP}}
    yield "".join(chunk["choices"][0]["delta"]["content"] for chunk in driver.call("streamFim", **options))


def case(client: str, dialect: str, ask: Callable[..., Iterator[str]], fixture: str | None, *arguments: str) -> Any:
    return pytest.param(
        *(ask, fixture, arguments), marks=pytest.mark.client(client, dialect), id=f"{client}-{dialect}".replace(" ", "")
    )


@pytest.fixture(scope="module")
def expected(cluster: Cluster) -> str:
    """What `/v1/completions` says; that this is what the model says is shown in `tests/e2e` and `tests/deployments`."""
    answer = httpx.post(f"{cluster.url}/v1/completions", json={"model": cluster.name, **GAP}, timeout=120).json()
    text = answer["choices"][0]["text"]
    assert len(text) > 5
    return str(text)


@pytest.mark.parametrize(
    ("ask", "fixture", "arguments"),
    [
        case("openai (PyPI)", "OpenAI", python_openai, None, "/v1"),
        case("openai (PyPI)", "DeepSeek", python_openai, None, "/beta"),
        case("mistralai (PyPI)", "Mistral", python_mistral, None),
        case("ollama (PyPI)", "Ollama", python_ollama, None),
        case("huggingface_hub (PyPI)", "TGI", python_huggingface, None),
        case(TEXT_GENERATION, "TGI", text_generation, "text_generation"),
        case(OPENAI_JS, "OpenAI", openai_js, "openai_js", "/v1"),
        case(OPENAI_JS, "DeepSeek", openai_js, "openai_js", "/v1/beta"),
        case(HUGGINGFACE_JS, "OpenAI", huggingface_js, "huggingface_js"),
        case(CONTINUE, "Mistral", continue_js, "continue_js", "mistral", "/v1/"),
        case(CONTINUE, "DeepSeek", continue_js, "continue_js", "deepseek", "/"),
    ],
)
def test_every_client_fills_the_same_gap_with_the_same_text(
    cluster: Cluster,
    request: pytest.FixtureRequest,
    expected: str,
    ask: Callable[..., Iterator[str]],
    fixture: str | None,
    arguments: tuple[str, ...],
) -> None:
    driver = (request.getfixturevalue(fixture),) if fixture else ()
    for answer in ask(*driver, (cluster.url, cluster.name), *arguments):
        if request.node.get_closest_marker("client").args[1] in EDITORS:
            assert starts(answer, expected)
        else:
            assert answer == expected


@pytest.mark.client("tabby-agent (npm)", "Tabby")
def test_tabbys_agent_completes_and_reports(cluster: Cluster, tabby_command: list[str], tmp_path: Path) -> None:
    with TabbyAgent(tabby_command, env=tabby_environment(tmp_path, cluster.url)) as agent:
        assert agent.ask(1, "initialize", {}) is True
        assert agent.ask(2, "getStatus") == "ready"
        place = {"filepath": "/src/a.py", "language": "python", "text": BEFORE + AFTER, "position": len(BEFORE)}
        completion = agent.ask(3, "provideCompletions", {**place, "manually": True}, {"signal": True})
        assert ".python." in completion["id"]
        assert agent.ask(4, "postEvent", {"type": "view", "completion_id": completion["id"], "choice_index": 0}) is True


def aborted(cluster: Cluster) -> float:
    lines = httpx.get(f"{cluster.url}/metrics", timeout=120).text.splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("starcoder_request_success_total{") and '"abort"' in line
    )


@pytest.mark.parametrize(
    ("fixture", "call", "options"),
    [
        pytest.param(
            *("openai_js", "streamCompletion", {"url": "/v1", "body": {"prompt": BEFORE}}),
            marks=pytest.mark.client(OPENAI_JS, "OpenAI"),
        ),
        pytest.param(
            *("huggingface_js", "streamGeneration", {"url": "", "body": {"inputs": BEFORE}}),
            marks=pytest.mark.client(HUGGINGFACE_JS, "OpenAI"),
        ),
        pytest.param(
            *("continue_js", "streamCompletion", {"url": "/v1/", "body": {"prompt": BEFORE}}),
            marks=pytest.mark.client(CONTINUE, "OpenAI"),
        ),
    ],
    ids=["openai", "huggingface", "continue"],
)
def test_an_aborted_stream_leaves_the_batch(
    cluster: Cluster, request: pytest.FixtureRequest, fixture: str, call: str, options: dict[str, Any]
) -> None:
    driver: ClientDriver = request.getfixturevalue(fixture)
    before = aborted(cluster)
    body = {"model": cluster.name, **LONG, **options["body"]}
    try:
        parts = driver.call(call, url=cluster.url + options["url"], provider="openai", body=body, abort_after=1)
        assert 1 <= len(parts) < 500  # what had arrived already is still handed out
    except ClientError as error:
        assert "abort" in str(error).lower()  # noqa: PT017
    wait_until(lambda: (cluster.health() or {}).get("running") == 0, "the sequence stays")
    wait_until(lambda: aborted(cluster) > before, "no sequence was aborted")
