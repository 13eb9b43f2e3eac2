"""The commands of administrators: on the database of this machine, and by a server."""

from __future__ import annotations

import asyncio
import json
import re
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from deployments.command.complete import stream
from deployments.command.ports import free_port
from deployments.teams.keys import is_well_formed
from deployments.teams.store import Store
from model.text.tokenizer import Tokenizer
from tests.deployments.command.teams.conftest import Starcoder
from tests.support.fake_backend import MODEL
from tests.support.stores import an_entry
from tests.support.teams_server import TeamsServer, teams_server


@pytest.fixture
def server(home: Path, tokenizer: Tokenizer) -> Iterator[TeamsServer]:
    with teams_server(f"sqlite+aiosqlite:///{home / 'teams.sqlite'}", tokenizer) as server:
        yield server


def rows(table: str) -> list[list[str]]:
    """Cells, of words that have no two spaces between them."""
    return [re.split(" {2,}", line.strip()) for line in table.splitlines()]


def test_from_nothing_to_a_bill(starcoder: Starcoder, home: Path, server: TeamsServer) -> None:
    """On this machine; the server sees each change."""
    admin = starcoder("keys create --admin").out.strip()
    assert is_well_formed(admin)
    made = starcoder("teams create editors --weight 2 --class interactive --rpm 600 --budget-usd 50 --hard")
    assert (made.out, "Team editors is made" in made.words) == ("", True)
    key, words = starcoder("keys create --team editors --name laptop --expires 90d")
    assert is_well_formed(key.strip())
    assert "Key key_" in words
    assert key.strip() not in words
    assert "".join(stream(server.url, {"prompt": "x"}, key.strip()))

    listed = rows(starcoder("keys list").out)
    assert listed[0] == ["id", "name", "team", "ends in", "scopes", "expires"]
    assert [row[1:4] for row in listed[1:]] == [
        ["key", "(administrators)", f"...{admin[-4:]}"],
        ["laptop", "editors", f"...{key.strip()[-4:]}"],
    ]
    (team,) = json.loads(starcoder("teams list --json").out)
    identity = json.loads(starcoder("keys list --json --team editors").out)[0]["id"]

    async def use() -> None:
        store = await Store.open(server.database)
        for_whom = {"team_id": team["id"], "key_id": identity, "model": MODEL}
        at = datetime.now(UTC).timestamp()
        await store.book([an_entry(started_at=at, cost=2_500_000_000_000, **for_whom)])
        await store.close()

    asyncio.run(use())
    event = {"type": "select", "completion_id": "cmpl-00ff.python.5"}
    told = httpx.post(f"{server.url}/v1/events", json=event, headers={"authorization": f"Bearer {key.strip()}"})
    assert told.status_code == 200
    asyncio.run(server.accepted.flush())

    bill = rows(starcoder("usage --by team,key,model").out)
    assert bill == [
        ["team", "key", "model", "requests", "prompt", "cached", "generated", "USD", "accepted lines", "USD a line"],
        ["editors", f"laptop {identity}", MODEL, "1", "100", "60", "20", "2.5000", "5", "0.500000"],
    ]
    csv = starcoder("usage --csv --by day,team").out.splitlines()
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    assert csv[1:] == [f"{today},editors,{team['id']},1,100,60,20,0,2.5,1,5,0.5"]
    shown = dict(row for row in rows(starcoder("teams show editors").out)[1:])
    assert (shown["budget"], shown["spent"]) == ("$50.00 a month, hard", "$2.50")

    starcoder(f"keys revoke {identity}")
    with pytest.raises(RuntimeError, match="not known, or was revoked"):
        list(stream(server.url, {"prompt": "x"}, key.strip()))
    actions = [row[3] for row in rows(starcoder("audit list").out)[1:]]
    assert actions == ["key.created", "team.created", "key.created", "key.revoked"]
    assert starcoder("audit verify").out == "4 entries, all of them as they were written\n"


def test_the_first_key_makes_what_is_needed_for_this_user_alone(starcoder: Starcoder, home: Path) -> None:
    starcoder("keys create --admin")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home, *home.iterdir())}
    assert modes[home.name] == 0o700
    assert modes["teams.sqlite.pepper"] == modes["teams.sqlite"] == 0o600


def test_the_same_by_a_server(
    starcoder: Starcoder, home: Path, server: TeamsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = tmp_path / "admin.key"
    admin.write_text(starcoder("keys create --admin --name first").out)
    monkeypatch.setenv("STARCODER_URL", server.url)
    monkeypatch.setenv("STARCODER_ADMIN_KEY", admin.read_text())
    starcoder("teams create jobs --class batch --tpm 1000 --parallel 4")
    monkeypatch.delenv("STARCODER_ADMIN_KEY")
    by_file = f"--admin-key-file {admin}"
    starcoder(f"teams set jobs --tpm none --rename nightly --budget-usd 5 {by_file}")
    starcoder(f"teams set nightly --hard {by_file}")
    (team,) = json.loads(starcoder(f"teams list --json {by_file}").out)
    assert (team["name"], team["tokens_per_minute"], team["parallel"]) == ("nightly", None, 4)
    assert (team["budget"]["amount_usd"], team["budget"]["hard"]) == ("5", True)
    old = starcoder(f"keys create --team nightly --scopes generate --rpm 7 {by_file}").out.strip()
    (key,) = json.loads(starcoder(f"keys list --team nightly --json {by_file}").out)
    assert (key["scopes"], key["requests_per_minute"]) == (["generate"], 7)
    new = starcoder(f"keys rotate {key['id']} {by_file}").out.strip()
    with pytest.raises(RuntimeError, match="revoked"):
        list(stream(server.url, {"prompt": "x"}, old))
    assert "".join(stream(server.url, {"prompt": "x"}, new))
    starcoder(f"members add --team nightly --role owner idp|a/b {by_file}")
    assert rows(starcoder(f"members list --team nightly {by_file}").out)[1] == [
        "idp|a/b",
        "owner",
        "-",
        "-",
    ]
    starcoder(f"members remove --team nightly idp|a/b {by_file}")
    starcoder(f"prices set starcoder --input 0.001 --cached 0.0001 --output 0.002 {by_file}")
    assert rows(starcoder(f"prices list {by_file}").out)[2][:4] == ["starcoder", "0.001", "0.0001", "0.002"]
    assert "not accepted" in starcoder(f"teams show nightly {by_file}").out
    starcoder(f"teams accept-terms nightly 2023-05 {by_file}")
    assert re.search(r"2023-05, accepted \S+ \S+ by key:", starcoder(f"teams show nightly {by_file}").out)
    starcoder(f"teams archive nightly {by_file}")
    assert starcoder(f"teams list {by_file}").out.count("\n") == 1
    assert "nightly (archived)" in starcoder(f"teams list --archived {by_file}").out
    assert "already" in starcoder(f"keys create --admin --if-none {by_file}").words
    audit = json.loads(starcoder(f"audit list --last 3 --json {by_file}").out)
    assert [entry["action"] for entry in audit] == ["terms.accepted", "key.revoked", "team.archived"]
    assert len({entry["actor_id"] for entry in audit}) == 1


def test_a_key_is_made_only_where_there_is_none(starcoder: Starcoder) -> None:
    assert starcoder("keys create --admin --if-none").out
    said = starcoder("keys create --admin --if-none")
    assert (said.out, "already" in said.words) == ("", True)


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("teams list", 1, "`starcoder keys create --admin` makes the first key"),
        ("usage", 1, "`starcoder keys create --admin` makes the first key"),
        ("keys create --team nobody", 1, "There is no such team."),
        ("teams create Nobody", 1, "is no name of a team"),
        ("teams create a --hard", 1, "say --budget-usd"),
        ("teams create a --budget-usd much", 1, "is no amount of USD"),
        ("keys create", 2, "--team --admin"),
        ("keys create --admin --scopes usage", 1, "are of keys of a team"),
        ("keys create --admin --expires yesterday", 1, "neither a span such as 90d"),
        ("usage --by colour", 2, "is none of team, key"),
        ("usage --from soon", 2, "is no day such as"),
        ("teams list --teams.database mysql://u:hidden@h/d", 2, "wanted is sqlite+aiosqlite"),
        (
            "teams create a --teams.database postgresql+asyncpg://u:secret@127.0.0.1:1/d",
            2,
            "teams.pepper_file is needed",
        ),
        ("teams list --url http://127.0.0.1:1", 2, "STARCODER_ADMIN_KEY, or --admin-key-file"),
        ("teams list --url http://127.0.0.1:1 --admin-key-file /no/such", 2, "key file /no/such"),
        ("teams list --config /no/such", 2, "settings file /no/such"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(starcoder: Starcoder, line: str, code: int, message: str) -> None:
    said = starcoder(line, code=code)
    assert message in said.words
    assert (said.out, "hidden" in said.words, "Traceback" in said.words) == ("", False, False)
    _, *rest = said.words.splitlines()
    assert not rest or (code == 2 and len(rest) == 1 and rest[0].endswith(" --help` says what there is."))


def test_a_server_that_is_not_there_or_none_of_ours(starcoder: Starcoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARCODER_ADMIN_KEY", "sk-sc-x")
    nobody = f"http://127.0.0.1:{free_port()}"
    assert nobody in starcoder(f"teams list --url {nobody}", code=1).words

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(418)

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            said = starcoder(f"teams list --url http://127.0.0.1:{other.server_port}", code=1)
        finally:
            other.shutdown()
            thread.join()
    assert "answered 418" in said.words


def test_a_wrong_key(starcoder: Starcoder, server: TeamsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    starcoder("keys create --admin")
    starcoder("teams create a")
    monkeypatch.setenv("STARCODER_ADMIN_KEY", starcoder("keys create --team a").out)
    said = starcoder(f"keys list --url {server.url}", code=1)
    assert "lacks the scope 'admin'" in said.words


def test_complete_sends_a_key(
    starcoder: Starcoder, server: TeamsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starcoder("keys create --admin")
    starcoder("teams create a")
    key = tmp_path / "a.key"
    key.write_text(starcoder("keys create --team a").out)
    code = tmp_path / "code.py"
    code.write_text("def f():\n")
    monkeypatch.setenv("STARCODER_URL", server.url)
    assert "needs an API key" in starcoder(f"complete {code}", code=1).words
    assert starcoder(f"complete {code} --api-key-file {key}").out.strip()
    monkeypatch.setenv("STARCODER_API_KEY", key.read_text())
    assert starcoder(f"complete {code}").out.strip()


def test_what_a_terminal_would_obey_is_not_printed(starcoder: Starcoder) -> None:
    starcoder("keys create --admin --name", "a\x1b[31mred\nline")
    (listed,) = rows(starcoder("keys list").out)[1:]
    assert listed[1] == "a?[31mred?line"
