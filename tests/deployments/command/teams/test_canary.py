"""A key appears where it is made, once, and nowhere else: in no log, error, list, file or metric."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from model.text.tokenizer import Tokenizer
from monitoring.process import init, render
from tests.deployments.command.teams.conftest import Starcoder
from tests.support.log_lines import captured
from tests.support.teams_server import teams_server

PATHS = (
    *("/me", "/projects", "/projects/a", "/projects/a/api_keys", "/projects/a/service_accounts", "/api_keys"),
    *("/admin_api_keys", "/audit_logs", "/prices", "/users", "/usage.csv?start_time=0&end_time=9000000&by=key"),
    *("/usage/completions?start_time=0&group_by=api_key_id", "/nothing", "/costs"),
)


def test_a_key_is_seen_once(
    starcoder: Starcoder, home: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    init(None)
    said: list[str] = []
    with captured("debug") as lines, teams_server(f"sqlite+aiosqlite:///{home / 'teams.sqlite'}", tokenizer) as server:
        admin = starcoder("keys create --admin").out.strip()
        starcoder("teams create a")
        made = [starcoder("keys create --team a --name own").out.strip()]
        wrong = (f"keys create --team a --expires {admin}", f"teams create {admin}", f"keys revoke {admin}")
        said += [starcoder(line, code=1).words for line in wrong]
        with httpx.Client(base_url=f"{server.url}/v1", headers={"authorization": f"Bearer {admin}"}) as client:
            for body in ({"name": "by http"}, {"name": "again", "expires": "1h"}):
                answer = client.post("/organization/projects/a/api_keys", json=body).json()
                made.append(answer.pop("value"))
                said.append(str(answer))
            answers = [client.get(f"/organization{path}") for path in PATHS]
            for key in (admin, *made):
                for scheme in ("Bearer", "Basic", ""):
                    for value in (key, key[:-1], key[:-1] + "x"):
                        headers = {"authorization": f"{scheme} {value}".strip()}
                        answers.append(client.get("/models", headers=headers))
                        answers.append(client.post("/completions", headers=headers, json={"prompt": "x", "n": "y"}))
                answers.append(client.post("/events", json={"type": "view", "completion_id": "x"}))
            said += [str(dict(answer.headers)) + answer.text for answer in answers]
            assert {answer.status_code for answer in answers} >= {200, 400, 401, 404}
        for line in ("keys list", "keys list --json", "teams list", "audit list", "audit verify", "usage --by key"):
            said.append("".join(starcoder(line)))
        monkeypatch.setenv("STARCODER_ADMIN_KEY", made[0])
        said.append("".join(starcoder(f"keys list --url {server.url}", code=1)))
        logged = lines.text
    files = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    assert len(made) == 3
    assert len(files) >= 2
    assert '"event":"request"' in logged
    for key in (admin, *made):
        middle = key[10:40]
        assert middle not in logged
        assert middle not in render().decode()
        assert [content for content in files if middle.encode() in content] == []
        # What was typed in the place of a name is named to whoever typed it.
        assert [text for text in said if middle in text and key != admin] == []
        assert [text for text in said if middle in text and not text.startswith("starcoder ")] == []
