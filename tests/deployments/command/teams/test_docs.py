"""docs/teams.md: its commands can be typed, its table is the rules, its Python drives a server."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from deployments.teams.permissions import RULES, TeamAction
from model.text.tokenizer import Tokenizer
from tests.deployments.command.teams.conftest import Starcoder
from tests.support.teams_server import teams_server

DOCUMENT = (Path(__file__).parents[4] / "docs/teams.md").read_text()

COMMANDS = sorted(
    {
        line.strip("`$ ")
        for line in re.findall(r"^\$ starcoder .*$|`starcoder [^`]*`", DOCUMENT, re.MULTILINE)
        if line.strip("`$ ").split()[1] in ("teams", "keys", "members", "usage", "prices", "audit")
        and len(line.split()) > 3
    }
)

ROWS: dict[TeamAction, str] = {
    "team.read": "see the team, its limits and its budget",
    "usage.read": "see its usage",
    "keys.read": "see its keys, without their values",
    "members.read": "see its people",
    "keys.create": "make a key",
    "keys.change_own": "change, rotate and revoke a key of one's own",
    "keys.change": "change, rotate and revoke any key, and limits of keys",
    "members.change": "change its people",
    "terms.accept": "accept the use restrictions",
    "team.change": "change its name, weight, class, limits and budget",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_can_be_typed(command: str) -> None:
    _, name, *arguments = shlex.split(command.partition(" > ")[0])
    module = importlib.import_module(f"deployments.command.teams.{name}")
    assert module.parser().parse_args(arguments).act


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 12


@pytest.mark.parametrize("action", RULES)
def test_the_table_is_the_rules(action: TeamAction) -> None:
    rule = RULES[action]
    least = {"viewer": 3, "member": 2, "owner": 1, None: 0}[rule.role]
    cells = ["yes" if number < least else "" for number in range(3)] + ["yes" if rule.scope == "usage" else ""]
    row = " | ".join(["", ROWS[action], *cells, ""])
    assert re.sub(r" +", " ", row).strip() in DOCUMENT


def test_the_python_runs(
    starcoder: Starcoder, home: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "admin.key").write_text(starcoder("keys create --admin").out)
    monkeypatch.chdir(tmp_path)
    snippet = DOCUMENT.partition("```python\n")[2].partition("```")[0]
    with teams_server(f"sqlite+aiosqlite:///{home / 'teams.sqlite'}", tokenizer) as server:
        exec(compile(snippet.replace("http://127.0.0.1:8000", server.url), "docs/teams.md", "exec"), {})
    assert "research" in starcoder("teams list").out
