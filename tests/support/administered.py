"""A closed server, and the command that administers it."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from deployments.command.cli import main
from tests.support.cluster import Cluster
from tests.support.gatekeepers import bearer
from tests.support.over_tls import Certificates, Secure
from tests.support.waiting import PATIENCE_S, wait_until


class Row(NamedTuple):
    """Of a bill. cost: picodollars."""

    team: str
    kind: str
    requests: int
    tokens: int
    cost: int


class CommandError(Exception):
    pass


def database(directory: Path) -> str:
    """The URL of one that is not there yet."""
    return f"sqlite+aiosqlite:///{directory / 'teams.sqlite'}"


class Administered:
    """A running server over TLS that gets its first keys here, and keeps all that it has in `directory`.

    keys: all that were made, of which the first is an administrator's. before: the status of an answer, and whether
    there was a database, while there was none. secure: with the key of a team.
    """

    def __init__(self, cluster: Cluster, certificates: Certificates, directory: Path, ingresses: int) -> None:
        self._ingresses = ingresses
        self.cluster = cluster
        self.directory = directory
        self.database = database(directory)
        self.keys: list[str] = []
        self.before = self.ask(None).status_code, (directory / "teams.sqlite").exists()
        self.key("--admin", "--name", "me", STARCODER_TEAMS__DATABASE=self.database)
        self.wait_whole()
        self.secure = Secure(cluster, certificates, self.team("secure"))

    def wait_whole(self) -> None:
        """Until every ingress is ready, and asks who comes for a key."""
        wait_until(self._ready, self.cluster.text, period_s=0.2)
        # What `/health` knows of another one may be of before its end.
        answers: list[int] = []

        def closed() -> bool:
            answers.clear()
            with contextlib.suppress(httpx.HTTPError):
                answers.extend(self.ask(None).status_code for _ in range(20))
            return answers == [401] * 20

        wait_until(closed, lambda: f"an ingress answers otherwise: {answers}", period_s=0.5)

    def _ready(self) -> bool:
        ingresses = (self.cluster.health() or {"ingresses": []})["ingresses"]
        return [ingress["state"] for ingress in ingresses] == ["ready"] * self._ingresses

    def run(self, *arguments: str, **environment: str) -> str:
        """What `starcoder` prints. In this process: each of its own would take seconds to start."""
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            for name, value in environment.items():
                patch.setenv(name, value)
            if main(arguments) != 0:
                raise CommandError(arguments)
        return printed.getvalue()

    def key(self, *arguments: str, **environment: str) -> str:
        key = self.run("keys", "create", *arguments, **environment).strip()
        assert key.startswith("sk-sc-")
        self.keys.append(key)
        return key

    def team(self, name: str, *options: str) -> str:
        """A key of a new team."""
        self.administer("teams", "create", name, *options)
        return self.key("--team", name, STARCODER_URL=self.cluster.url, STARCODER_ADMIN_KEY=self.keys[0])

    def administer(self, *arguments: str) -> str:
        """Over HTTP, as an administrator elsewhere."""
        return self.run(*arguments, STARCODER_URL=self.cluster.url, STARCODER_ADMIN_KEY=self.keys[0])

    def ask(self, key: str | None, headers: Mapping[str, str] | None = None, **body: Any) -> httpx.Response:
        headers = {**(headers or {}), **({} if key is None else bearer(key))}
        body = {"prompt": "def f(", "max_tokens": 4, "temperature": 0, "ignore_eos": True, **body}
        return httpx.post(f"{self.cluster.url}/v1/completions", json=body, headers=headers, timeout=PATIENCE_S)

    def files_with_a_key(self) -> list[Path]:
        """Of the log, the database and the journal: what a server keeps of its clients."""
        files = [path for path in self.directory.rglob("*") if path.is_file()]
        assert {path.name for path in files} >= {"serve.txt", "teams.sqlite"}
        contents = ((path, path.read_bytes()) for path in files)
        return [path for path, content in contents if any(key[6:].encode() in content for key in self.keys)]

    def usage(self, by: str, team: str) -> list[Row]:
        """Of a team, as the command has it; by: columns, of which the first is `team`."""
        rows = csv.DictReader(self.administer("usage", "--by", by, "--csv").splitlines())
        return [
            Row(
                row["team"],
                row.get("kind", ""),
                int(row["requests"]),
                int(row["prompt_tokens"]) + int(row["completion_tokens"]),
                int(Decimal(row["cost_usd"]).scaleb(12)),
            )
            for row in rows
            if row["team"] == team
        ]
