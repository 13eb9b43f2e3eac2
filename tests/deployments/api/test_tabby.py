"""Tabby's API: completions by segments beside OpenAI's, events as metrics, health and settings."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from deployments.api.tabby import MAX_LINES, EventRequest, accepted_by, completion_id, language_of
from deployments.teams.principal import Principal
from deployments.teams.records import Team
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import ANSWER, MODEL, WINDOW, FakeBackend


async def complete(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_segments_are_told_from_openais_prompt(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answer = await complete(client, language="python", segments={"prefix": "def ", "suffix": "\n"}, user="me")
    (request,) = fake_backend.requests
    assert answer == {
        "id": f"cmpl-{request.request_id}.python.2",
        "choices": [{"index": 0, "text": ANSWER}],
        "mode": "standard",
    }
    assert (request.params.max_tokens, request.params.temperature, request.user) == (64, 0.1, "me")
    openai = await complete(client, prompt="x", segments=None, max_tokens=200)
    assert (openai["object"], openai["choices"][0]["text"]) == ("text_completion", ANSWER)


async def test_snippets_are_repository_context(
    client: httpx.AsyncClient, fake_backend: FakeBackend, tokenizer: Tokenizer
) -> None:
    segments = {
        "prefix": "import tax\n",
        "suffix": "\nend<|endoftext|>",
        "filepath": "cart.py",
        "git_url": "git@example.org:acme/shop.git",
        "declarations": [{"filepath": "tax.py", "body": "def rate(): ...\n"}],
        "relevant_snippets_from_changed_files": [{"filepath": "a.py", "body": "A = 1\n", "score": 0.5}],
        "relevant_snippets_from_recently_opened_files": [{"filepath": "b.py", "body": "B = 1\n", "score": 0.4}],
        "clipboard": "ignored",
    }
    await complete(client, segments=segments)
    (ids,) = fake_backend.requests[0].prompts
    assert tokenizer.decode(ids, skip_special=False) == (
        "<reponame>acme/shop<filename>tax.py\ndef rate(): ...\n<|endoftext|>"
        "<reponame>acme/shop<filename>a.py\nA = 1\n<|endoftext|>"
        "<reponame>acme/shop<filename>b.py\nB = 1\n<|endoftext|>"
        "<fim_prefix><fim_suffix>\nend<|endoftext|><fim_middle><reponame>acme/shop<filename>cart.py\nimport tax\n"
    )
    assert ids.count(tokenizer.eos_id) == 3


@pytest.mark.parametrize(
    ("git_url", "name"),
    [
        ("https://example.org/acme/shop", "acme/shop"),
        ("https://example.org/acme/shop.git/", "acme/shop"),
        ("ssh://git@example.org:22/group/acme/shop.git", "acme/shop"),
        ("shop", None),
        ("", None),
    ],
)
async def test_repository_names(
    client: httpx.AsyncClient, fake_backend: FakeBackend, git_url: str, name: str | None
) -> None:
    await complete(client, segments={"prefix": "x", "git_url": git_url})
    text = fake_backend.tokenizer.decode(fake_backend.requests[0].prompts[0], skip_special=False)
    assert re.findall("<reponame>([^<\n]*)", text) == ([name] if name else [])


async def test_long_files_are_cut_and_line_ends_kept(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    lines = "".join(f"v{i} = {i}\r\n" for i in range(300))
    answer = await complete(client, segments={"prefix": lines, "suffix": lines}, completion_mode="raw")
    (request,) = fake_backend.requests
    assert len(request.prompts[0]) + request.params.max_tokens <= WINDOW
    assert "\r" not in fake_backend.tokenizer.decode(request.prompts[0])
    assert answer["choices"][0]["text"] == ANSWER.replace("\n", "\r\n")


async def test_refusals_name_the_field(client: httpx.AsyncClient) -> None:
    for body, param in (
        ({"segments": {}}, "segments.prefix"),
        ({"segments": "x"}, "segments"),
        ({"segments": {"prefix": "x"}, "mode": "next_edit_suggestion"}, "mode"),
        ({"temperature": 9, "prompt": "x"}, "temperature"),
    ):
        response = await client.post("/v1/completions", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    response = await client.post("/v1/completions", json=["segments"])
    assert response.json()["error"]["message"] == "The body must be a JSON object."


async def test_events_are_counted_by_language(new_client: httpx.AsyncClient) -> None:
    async def counts() -> dict[tuple[str, str], float]:
        text = (await new_client.get("/metrics")).text
        pattern = rf'starcoder_completion_events_total{{event="(\w+)",language="(\w+)",model="{MODEL}"}} (\S+)'
        return {(event, language): float(value) for event, language, value in re.findall(pattern, text)}

    before = await counts()
    python = (await complete(new_client, language="python", segments={"prefix": "x"}))["id"]
    other = (await complete(new_client, language="x" * 30, segments={"prefix": "x"}))["id"]
    for event, completion, query in (
        ("view", python, ""),
        ("select", python, "?select_kind=line"),
        ("select", python, ""),
        ("dismiss", other, ""),
        ("dismiss", "somebody-elses.id", ""),
    ):
        body = {"type": event, "completion_id": completion, "choice_index": 0, "view_id": "v", "elapsed": 120}
        response = await new_client.post(f"/v1/events{query}", json=body)
        assert (response.status_code, response.content) == (200, b"")
    after = await counts()
    changed = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
    assert changed == {
        ("view", "python"): 1,
        ("select_line", "python"): 1,
        ("select", "python"): 1,
        ("dismiss", "other"): 2,
    }
    body = {"type": "explode", "completion_id": python, "choice_index": 0}
    assert (await new_client.post("/v1/events", json=body)).status_code == 400


async def test_health_and_settings(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    health = (await client.get("/v1/health")).json()
    assert (health["model"], health["models"]["completion"]["local"]["model_id"]) == (MODEL, MODEL)
    # A number would be taken for a version of Tabby, and one before 0.9 for a server without settings.
    assert re.fullmatch(r"\D+", health["version"]["git_describe"])
    assert (await client.get("/v1beta/server_setting")).json() == {"disable_client_side_telemetry": True}


@pytest.mark.parametrize(
    ("event", "kind", "accepted"),
    [
        ({"completion_id": "cmpl-0a.python.7"}, "select", ("tabby", 7)),
        ({"completion_id": "cmpl-0a.python.7"}, "select_line", ("tabby", 1)),
        ({"completion_id": "cmpl-0a.python.7", "lines": 2}, "select", ("tabby", 2)),
        ({"completion_id": "cmpl-0a.python.99999"}, "select", ("tabby", MAX_LINES)),
        ({"completion_id": "chatcmpl-1", "lines": 3}, "select", ("other", 3)),
        ({"completion_id": "chatcmpl-1"}, "select", ("other", 1)),
        ({"completion_id": "cmpl-0a.python.7", "type": "view"}, "view", None),
        ({"completion_id": "cmpl-0a.python.7", "type": "dismiss"}, "dismiss", None),
    ],
)
def test_what_a_team_accepted(event: dict[str, Any], kind: str, accepted: tuple[str, int] | None) -> None:
    body = EventRequest.model_validate({"type": "select", **event})
    team = Team(id="team_a", name="a", created_at=0)
    found = accepted_by(Principal(team=team, user="alice"), body, kind, MODEL)
    assert (None if found is None else (found.dialect, found.lines)) == accepted
    assert found is None or (found.team_id, found.user, found.model, found.completions) == ("team_a", "alice", MODEL, 1)
    assert accepted_by(Principal(team=None), body, kind, MODEL) is None


@pytest.mark.parametrize(("text", "lines"), [("", 1), ("a", 1), ("a\n", 1), ("\n  a\nb\n\n", 2), ("a\n\nb", 3)])
def test_an_id_says_how_many_lines(text: str, lines: int) -> None:
    assert completion_id("00ff", "python", text) == f"cmpl-00ff.python.{lines}"
    assert language_of(completion_id("00ff", "cobol", text)) == "other"
