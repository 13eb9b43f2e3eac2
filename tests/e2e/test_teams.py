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
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

PRICE = 315_000  # picodollars a token, by default
PLACES = 60
"""That the engine and its queue have: more than any other test asks at once."""


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
    """The server, and the command that administers it."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self.keys: list[str] = []

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
    assert served.ask(None).status_code == 200, "nobody is asked until there is a key"
    assert not (served.directory / "teams.sqlite").exists()

    admin = served.key("--admin", "--name", "me", **served.environment)
    wait_until(lambda: {served.ask(None).status_code for _ in range(10)} == {401}, "an ingress does not close")
    assert served.ask(admin).status_code == 403, "administrators' keys run no completions"

    served.administer("teams", "create", "red", "--rpm", "100")
    red = served.key("--team", "red", STARCODER_URL=served.cluster.url, STARCODER_ADMIN_KEY=admin)
    answer = served.ask(red)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ratelimit-limit-requests"] == "100"
    tokens = answer.json()["usage"]["total_tokens"]

    client = openai.OpenAI(base_url=f"{served.cluster.url}/v1", api_key=red)
    streamed = client.completions.create(model=served.cluster.name, prompt="x", max_tokens=3, stream=True)
    said = list(streamed)
    assert said[-1].choices[0].finish_reason in ("length", "stop")

    wait_until(lambda: sum(row.requests for row in served.usage("team")) == 2, "it is not booked")
    (row,) = served.usage("team")
    assert row.team == "red"
    assert row.tokens > tokens
    assert row.cost == row.tokens * PRICE


def test_a_hard_budget_holds_for_two_hundred_at_once(served: Served) -> None:
    """Two ingresses count in one book: of 200 at once, no more get through than the budget has worst cases for."""
    worst = 10  # tokens: at most 6 of the prompt and 4 generated
    dollars = f"{10 * worst * PRICE / 10**12:.12f}"
    served.administer("teams", "create", "poor", "--budget-usd", dollars, "--hard")
    poor = served.key("--team", "poor", STARCODER_URL=served.cluster.url, STARCODER_ADMIN_KEY=served.keys[0])
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
    admin = served.keys[0]
    prompt = list(range(200, 264))

    def cached(key: str) -> int:
        answer = served.ask(key, prompt=prompt)
        assert answer.status_code == 200, answer.text
        return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    keys = []
    for team in ("green", "blue"):
        served.administer("teams", "create", team)
        keys.append(served.key("--team", team, STARCODER_URL=served.cluster.url, STARCODER_ADMIN_KEY=admin))
    green, blue = keys
    assert cached(green) == 0
    assert cached(blue) == 0
    assert cached(green) >= 48
    assert cached(blue) >= 48


def test_a_queue_that_one_team_fills_has_room_for_another(served: Served) -> None:
    admin = served.keys[0]
    keys = []
    for team in ("flood", "idle"):
        served.administer("teams", "create", team)
        keys.append(served.key("--team", team, STARCODER_URL=served.cluster.url, STARCODER_ADMIN_KEY=admin))
    flood, idle = keys
    refused = asyncio.Event()

    async def answers() -> list[int]:
        """Of the idle team, while the queue is full of the other one's."""

        async def ask(key: str, max_tokens: int) -> int:
            body = {"prompt": "x", "max_tokens": max_tokens, "ignore_eos": True}
            headers = {"authorization": f"Bearer {key}"}
            return (await client.post("/v1/completions", json=body, headers=headers)).status_code

        async def ask_again() -> None:
            while True:
                if await ask(flood, 1900) == 429:
                    refused.set()

        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=served.cluster.url, timeout=120, limits=limits) as client:
            flooding = [asyncio.create_task(ask_again()) for _ in range(PLACES + 10)]
            found = []
            for _ in range(5):
                refused.clear()
                await asyncio.wait_for(refused.wait(), 60)  # the queue is full now
                found.append(await ask(idle, 1))
            for each in flooding:
                each.cancel()
            await asyncio.gather(*flooding, return_exceptions=True)
            return found

    assert asyncio.run(answers()) == [200] * 5


def test_what_a_killed_ingress_had_begun_is_on_the_bill(served: Served) -> None:
    """Its journal is adopted by whoever lives. The client's connection broke; what was computed was computed."""
    admin = served.keys[0]
    served.administer("teams", "create", "unlucky")
    key = served.key("--team", "unlucky", STARCODER_URL=served.cluster.url, STARCODER_ADMIN_KEY=admin)
    body = {"prompt": "x", "max_tokens": 1900, "ignore_eos": True, "stream": True}
    headers = {"authorization": f"Bearer {key}"}
    with httpx.stream("POST", f"{served.cluster.url}/v1/completions", json=body, headers=headers, timeout=60) as answer:
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

    wait_until(booked, "what it had begun is not booked", 120)
    (row,) = (row for row in served.usage("team,kind") if row.team == "unlucky")
    assert row.kind == "failed"
    assert row.tokens >= 1


def test_a_revoked_key_gets_in_no_more(served: Served) -> None:
    admin = served.keys[0]
    key = served.key("--team", "red", "--name", "gone", STARCODER_URL=served.cluster.url, STARCODER_ADMIN_KEY=admin)
    assert served.ask(key).status_code == 200
    listed = json.loads(served.administer("keys", "list", "--json"))
    (known,) = (each for each in listed if each["name"] == "gone")
    assert known["last_four"] == key[-4:]
    served.administer("keys", "revoke", known["id"])
    wait_until(lambda: served.ask(key).status_code == 401, "it still gets in", 10)
    assert served.ask(served.keys[1]).status_code == 200


def test_no_key_is_anywhere(served: Served) -> None:
    """In no line of the log, and in no file of the database, the journal and the metrics."""
    assert len(served.keys) > 5
    files = [path for path in served.directory.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"serve.txt", "teams.sqlite"}
    for path in files:
        content = path.read_bytes()
        assert not [key for key in served.keys if key[6:].encode() in content], path
