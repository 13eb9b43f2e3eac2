"""Teams on a real server with two ingresses: from the first key to the bill, through kills, and without a leak."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import pytest

from deployments.command.cli import main
from tests.support.cluster import LONG, Cluster
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.e2e

PRICE = 315_000  # picodollars a token, by default
PLACES = 60
"""That the engine and its queue have: more than any other test asks at once."""
FLOOD_TOKENS = 200
"""Of each request of a team that fills them: whoever else asks waits for the end of one that runs."""


class Row(NamedTuple):
    """Of a bill. cost: picodollars."""

    team: str
    kind: str
    requests: int
    tokens: int
    cost: int


class CommandError(Exception):
    pass


class Served:
    """The server, and the command that administers it.

    keys: all that were made, of which the first is an administrator's. before: the status of an answer, and whether
    there was a database, while there was none.
    """

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self.keys: list[str] = []
        self.before = self.ask(None).status_code, (directory / "teams.sqlite").exists()
        self.key("--admin", "--name", "me", **self.environment)
        wait_until(lambda: {self.ask(None).status_code for _ in range(10)} == {401}, "an ingress does not close")

    @property
    def environment(self) -> dict[str, str]:
        return {"STARCODER_TEAMS__DATABASE": database(self.directory)}

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

    def ask(self, key: str | None, **body: Any) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        body = {"prompt": "def f(", "max_tokens": 4, "temperature": 0, "ignore_eos": True, **body}
        return httpx.post(f"{self.cluster.url}/v1/completions", json=body, headers=headers, timeout=120)

    def usage(self, by: str) -> list[Row]:
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
        ]


def database(directory: Path) -> str:
    return f"sqlite+aiosqlite:///{directory / 'teams.sqlite'}"


@pytest.fixture(scope="module")
def served(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("teams")
    options = ("--dtype", "float32", "--num-threads", "1", "--ingress-replicas", "2")
    options += ("--max-num-seqs", "4", "--max-queued-requests", str(PLACES - 4))
    cluster = Cluster(tiny_checkpoint, directory / "serve.txt", *options, STARCODER_TEAMS__DATABASE=database(directory))
    with cluster.running():
        yield Served(cluster, directory)


def test_from_the_first_key_to_the_bill(served: Served) -> None:
    assert served.before == (200, False), "nobody is asked until there is a key"
    assert served.ask(served.keys[0]).status_code == 403, "administrators' keys run no completions"

    red = served.team("red", "--rpm", "100")
    tokens, requests = 0, 1  # the one that is streamed below

    def counts_with_the_other() -> bool:
        """An ingress that has just started may count its half alone for a moment."""
        nonlocal tokens, requests
        answer = served.ask(red)
        assert answer.status_code == 200, answer.text
        tokens += answer.json()["usage"]["total_tokens"]
        requests += 1
        return answer.headers["x-ratelimit-limit-requests"] == "100"

    wait_until(counts_with_the_other, "it counts alone", period_s=2.0)

    client = openai.OpenAI(base_url=f"{served.cluster.url}/v1", api_key=red)
    streamed = client.completions.create(model=served.cluster.name, prompt="x", max_tokens=3, stream=True)
    said = list(streamed)
    assert said[-1].choices[0].finish_reason in ("length", "stop")

    def booked() -> bool:
        return [row.requests for row in served.usage("team") if row.team == "red"] == [requests]

    wait_until(booked, "it is not booked")
    (row,) = (row for row in served.usage("team") if row.team == "red")
    assert row.tokens > tokens
    assert row.cost == row.tokens * PRICE


def test_a_hard_budget_holds_for_two_hundred_at_once(served: Served) -> None:
    """Two ingresses count in one book: of 200 at once, no more get through than the budget has worst cases for."""
    worst = 10  # tokens: at most 6 of the prompt and 4 generated
    dollars = f"{10 * worst * PRICE / 10**12:.12f}"
    poor = served.team("poor", "--budget-usd", dollars, "--hard")
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: served.ask(poor), range(200)))
    passed = [answer for answer in answers if answer.status_code == 200]
    assert passed
    assert sum(answer.json()["usage"]["total_tokens"] for answer in passed) <= 10 * worst
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"
    spent = sum(answer.json()["usage"]["total_tokens"] for answer in passed) * PRICE

    def booked() -> bool:
        return [row.cost for row in served.usage("team") if row.team == "poor"] == [spent]

    wait_until(booked, "the ledger is not what was computed")


def test_another_teams_prefix_is_not_found(served: Served) -> None:
    prompt = list(range(200, 264))

    def cached(key: str) -> int:
        answer = served.ask(key, prompt=prompt)
        assert answer.status_code == 200, answer.text
        return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    green, blue = served.team("green"), served.team("blue")
    assert cached(green) == 0
    assert cached(blue) == 0
    assert cached(green) >= 48
    assert cached(blue) >= 48


def test_a_queue_that_one_team_fills_has_room_for_another(served: Served) -> None:
    flood, idle = served.team("flood"), served.team("idle")
    refused = asyncio.Event()

    async def answers() -> list[int]:
        """Of the idle team, while the queue is full of the other one's."""

        async def ask(key: str, max_tokens: int) -> int:
            body = {"prompt": "x", "max_tokens": max_tokens, "ignore_eos": True}
            headers = {"authorization": f"Bearer {key}"}
            return (await client.post("/v1/completions", json=body, headers=headers)).status_code

        async def ask_again() -> None:
            while True:
                if await ask(flood, FLOOD_TOKENS) == 429:
                    refused.set()

        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=served.cluster.url, timeout=None, limits=limits) as client:
            flooding = [asyncio.create_task(ask_again()) for _ in range(PLACES + 4)]
            found = []
            for _ in range(5):
                refused.clear()
                await asyncio.wait_for(refused.wait(), PATIENCE_S)  # the queue is full now
                found.append(await asyncio.wait_for(ask(idle, 1), PATIENCE_S))
            for each in flooding:
                each.cancel()
            await asyncio.gather(*flooding, return_exceptions=True)
            return found

    assert asyncio.run(answers()) == [200] * 5


def test_what_a_killed_ingress_had_begun_is_on_the_bill(served: Served) -> None:
    """Its journal is adopted by whoever lives. The client's connection broke; what was computed was computed."""
    body = {"prompt": "x", "stream": True, **LONG}
    headers = {"authorization": f"Bearer {served.team('unlucky')}"}
    address = f"{served.cluster.url}/v1/completions"
    with httpx.stream("POST", address, json=body, headers=headers, timeout=PATIENCE_S) as answer:
        lines = answer.iter_lines()
        for _ in range(10):
            next(lines)
        for pid in served.cluster.pids("ServeReplica:starcoder:ingress"):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(httpx.HTTPError):
            list(lines)

    def booked() -> bool:
        try:
            return [row.requests for row in served.usage("team") if row.team == "unlucky"] == [1]
        except CommandError:
            return False  # no ingress is back yet

    wait_until(booked, "what it had begun is not booked")
    (row,) = (row for row in served.usage("team,kind") if row.team == "unlucky")
    assert row.kind == "failed"
    assert row.tokens >= 1

    def both_are_back() -> bool:
        ingresses = (served.cluster.health() or {"ingresses": []})["ingresses"]
        return [ingress["state"] for ingress in ingresses] == ["ready", "ready"]

    wait_until(both_are_back, served.cluster.text, period_s=0.2)
    # What `/health` knows of the other one may be of before its end.
    wait_until(lambda: {served.ask(None).status_code for _ in range(20)} == {401}, "one does not answer", period_s=0.5)


def test_a_revoked_key_gets_in_no_more(served: Served) -> None:
    kept = served.team("two-keys")
    arguments = ("--team", "two-keys", "--name", "gone")
    key = served.key(*arguments, STARCODER_URL=served.cluster.url, STARCODER_ADMIN_KEY=served.keys[0])
    assert served.ask(key).status_code == 200
    listed = json.loads(served.administer("keys", "list", "--json"))
    (known,) = (each for each in listed if each["name"] == "gone")
    assert known["last_four"] == key[-4:]
    served.administer("keys", "revoke", known["id"])
    wait_until(lambda: served.ask(key).status_code == 401, "it still gets in")
    assert served.ask(kept).status_code == 200


@pytest.mark.last
def test_no_key_is_anywhere(served: Served) -> None:
    """In no line of the log, and in no file of the database, the journal and the metrics: whatever the others did."""
    assert served.ask(served.team("discreet")).status_code == 200
    files = [path for path in served.directory.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"serve.txt", "teams.sqlite"}
    for path in files:
        content = path.read_bytes()
        assert not [key for key in served.keys if key[6:].encode() in content], path
