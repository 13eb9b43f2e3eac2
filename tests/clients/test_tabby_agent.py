"""npm's `tabby-agent`, which Tabby's extensions run, against a real server: as a language server, and line by line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.errors import EngineUnavailableError
from tests.clients.conftest import starts, tabby_environment
from tests.support.fake_backend import ANSWER, FakeBackend
from tests.support.json_process import LanguageServer, TabbyAgent
from tests.support.waiting import wait_until

pytestmark = pytest.mark.client("tabby-agent (npm)", "Tabby")

DOCUMENT = "import math\n\n# größe 🎉\ndef add(a, b):\n    return \n\nprint(add(1, 2))\n"
CURSOR = {"line": 4, "character": 11}
AT = DOCUMENT.index("return ") + 7


@pytest.fixture
def agent_env(tmp_path: Path, url: str) -> dict[str, str]:
    return tabby_environment(tmp_path, url)


@pytest.fixture
def language_server(tabby_command: list[str], agent_env: dict[str, str]) -> Iterator[LanguageServer]:
    with LanguageServer([*tabby_command, "--lsp", "--stdio"], env=agent_env) as server:
        server.request("initialize", processId=None, rootUri=None, capabilities={}, clientInfo={"name": "an editor"})
        server.notify("initialized")
        yield server


@pytest.fixture
def agent(tabby_command: list[str], agent_env: dict[str, str]) -> Iterator[TabbyAgent]:
    with TabbyAgent(tabby_command, env=agent_env) as agent:
        yield agent


def complete(server: LanguageServer, text: str = DOCUMENT, name: str = "add.py") -> list[dict[str, Any]]:
    document = {"uri": f"file:///src/{name}", "languageId": "python", "version": 1, "text": text}
    server.notify("textDocument/didOpen", textDocument=document)
    answer = server.request("textDocument/completion", textDocument={"uri": document["uri"]}, position=CURSOR)
    return list(answer["items"])


def test_a_language_server_completes(language_server: LanguageServer, backend: FakeBackend) -> None:
    """The text at the cursor, as an editor shows it; the agent itself cuts what its rules do not like."""
    (item,) = complete(language_server)
    text = item["textEdit"]["newText"]
    assert starts(text, ANSWER)
    (request,) = backend.requests
    prompt = backend.tokenizer.decode(request.prompts[0], skip_special=False)
    assert prompt.endswith(f"<fim_prefix><fim_suffix>{DOCUMENT[AT:]}<fim_middle>{DOCUMENT[:AT]}")
    assert request.params.max_tokens == 64
    assert item["data"]["completionId"].endswith(f".python.{text.count(chr(10)) + 1}")


def test_a_failing_server_is_no_completion_and_is_asked_again(
    language_server: LanguageServer, backend: FakeBackend
) -> None:
    backend.failure, backend.failures_left = EngineUnavailableError("Dead."), 1
    assert complete(language_server) == []
    assert complete(language_server, name="again.py") != []


def test_events_are_counted(agent: TabbyAgent, url: str) -> None:
    assert agent.ask(1, "initialize", {}) is True
    assert agent.ask(2, "getStatus") == "ready"
    health = agent.ask(3, "getServerHealthState")
    assert health["model"]
    where = {"filepath": "/src/add.py", "language": "python", "text": DOCUMENT, "position": AT, "manually": True}
    completion = agent.ask(4, "provideCompletions", where, {"signal": True})
    before = counted(url)
    for number, kind in enumerate(("view", "select", "dismiss"), 5):
        event = {"type": kind, "completion_id": completion["id"], "choice_index": 0}
        assert agent.ask(number, "postEvent", event) is True
    line = {"type": "select", "completion_id": completion["id"], "choice_index": 0, "select_kind": "line"}
    assert agent.ask(8, "postEvent", line) is True
    assert {kind: after - before[kind] for kind, after in counted(url).items()} == dict.fromkeys(before, 1)


def counted(url: str) -> dict[str, float]:
    """How often each event was counted for Python."""
    found = dict.fromkeys(("view", "select", "select_line", "dismiss"), 0.0)
    for line in httpx.get(f"{url}/metrics").text.splitlines():
        for kind in found:
            if line.startswith("starcoder_completion_events_total{") and f'"{kind}"' in line and '"python"' in line:
                found[kind] += float(line.rpartition(" ")[2])
    return found


@pytest.mark.client("Tabby's extensions", "Tabby")
def test_the_newer_agent_of_the_extensions(url: str, backend: FakeBackend) -> None:
    """Which is in no registry: `clients/tabby-agent` (1.9.0-dev) of TabbyML/tabby at 21b2904 (2026-06-30).

    Requests as its `codeCompletion/buildRequest.ts` and `http/tabbyApiClient.ts` build them.
    """
    snippets = [{"filepath": "tax.py", "body": "RATE = 7\n", "score": 1}]
    segments = {
        "prefix": DOCUMENT[:AT],
        "suffix": DOCUMENT[AT:],
        "filepath": "shop/add.py",
        "git_url": "git@git.example:acme/shop.git",
        "declarations": [{"filepath": "cart.py", "body": "def total(): ...\n"}],
        "relevant_snippets_from_changed_files": snippets,
        "relevant_snippets_from_recently_opened_files": snippets,
    }
    with httpx.Client(base_url=url, headers={"authorization": "Bearer unused"}, timeout=120) as http:
        answer = http.post("/v1/completions", json={"language": "python", "segments": segments}).json()
        assert [choice["index"] for choice in answer["choices"]] == [0]
        assert starts(answer["choices"][0]["text"], ANSWER)
        view = {"type": "view", "completion_id": answer["id"], "choice_index": 0, "view_id": "view-1", "elapsed": 250}
        assert http.post("/v1/events", json=view).is_success
        assert http.post("/v1/events?select_kind=line", json={**view, "type": "select"}).is_success
    prompt = backend.tokenizer.decode(backend.requests[0].prompts[0], skip_special=False)
    for part in ("<reponame>acme/shop", "<filename>tax.py\nRATE = 7\n", "<filename>cart.py\n", "<filename>shop/add.py"):
        assert part in prompt


def test_a_cancelled_completion_reaches_the_backend(agent: TabbyAgent, backend: FakeBackend) -> None:
    """As when somebody types on before the answer has come."""
    backend.gate, backend.silent = asyncio.Event(), True  # no token ever comes
    assert agent.ask(1, "initialize", {}) is True
    where = {"filepath": "/src/add.py", "language": "python", "text": DOCUMENT, "position": AT, "manually": True}
    agent.start(2, "provideCompletions", where, {"signal": True})
    wait_until(lambda: len(backend.requests) == 1, "the agent does not ask")
    assert agent.ask(3, "cancelRequest", 2) is True
    wait_until(lambda: len(backend.closed) == 1, "the request goes on without its client")
