"""A closed server: what a team has used is on the ledger, though whoever kept account of it is killed; and its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx
import pytest

from deployments.teams.records import LedgerEntry
from deployments.teams.store import Store
from tests.support.administered import Administered
from tests.support.cluster import LONG
from tests.support.gatekeepers import bearer
from tests.support.processes import kill
from tests.support.ray_end import end_with_ray
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.faults

BEFORE, CUT_OFF, AFTER = REQUESTS = ("answered-before", "cut-off", "answered-after")


def ledger(closed: Administered) -> dict[str | None, LedgerEntry]:
    """What it has of this file's requests, by their ids."""

    async def read() -> list[LedgerEntry]:
        store = await Store.open(closed.database)
        try:
            return [entry async for entry in store.entries(0.0, 4_000_000_000.0)]
        finally:
            await store.close()

    entries = [entry for entry in asyncio.run(read()) if entry.request_id in REQUESTS]
    found = {entry.request_id: entry for entry in entries}
    assert len(found) == len(entries), "a request was booked twice"
    return found


def kill_the_ingresses_mid_stream(closed: Administered, key: str) -> None:
    """Whoever has the stream, is among them; so is whoever else would adopt its journal."""
    ingresses = closed.cluster.settled_pids("ServeReplica:starcoder:ingress", 2)
    body, headers = {"prompt": "def f(", "stream": True, **LONG}, {**bearer(key), "x-request-id": CUT_OFF}
    address = f"{closed.cluster.url}/v1/completions"
    with httpx.stream("POST", address, json=body, headers=headers, timeout=PATIENCE_S) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: {"))
        for _ in range(10):
            next(lines)
        for pid in ingresses:
            kill(pid)
        with pytest.raises(httpx.HTTPError):
            list(lines)


@pytest.mark.fault(
    "an ingress is killed while it keeps account of a team",
    "what was answered is on the ledger; a request under way with its prompt and what was told of it a second before",
    until="booked",
)
def test_an_ingress_is_killed(closed: Administered, recovered: Callable[[float], None]) -> None:
    """The client's connection broke; what was computed was computed, and is on the bill."""
    key = closed.team("unlucky")
    usages = {BEFORE: closed.ask(key, {"x-request-id": BEFORE}).json()["usage"]}
    kill_the_ingresses_mid_stream(closed, key)
    killed_at = time.monotonic()
    wait_until(lambda: ledger(closed).keys() >= {BEFORE, CUT_OFF}, closed.cluster.text, period_s=0.5)
    recovered(time.monotonic() - killed_at)
    closed.wait_whole()

    usages[AFTER] = closed.ask(key, {"x-request-id": AFTER}).json()["usage"]
    wait_until(lambda: len(ledger(closed)) == 3, closed.cluster.text, period_s=0.5)
    entries = ledger(closed)
    cut_off = entries[CUT_OFF]
    assert (cut_off.kind, cut_off.estimated, cut_off.prompt_tokens) == ("failed", True, usages[AFTER]["prompt_tokens"])
    assert 0 <= cut_off.completion_tokens < int(str(LONG["max_tokens"]))
    for name, usage in usages.items():
        entry = entries[name]
        assert (entry.kind, entry.estimated, entry.completion_tokens) == ("completed", False, 4)
        assert (entry.prompt_tokens, entry.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])

    bill = {row.kind: (row.requests, row.tokens) for row in closed.usage("team,kind", "unlucky")}
    assert bill == {
        "completed": (2, sum(usage["total_tokens"] for usage in usages.values())),
        "failed": (1, cut_off.prompt_tokens + cut_off.completion_tokens),
    }
    assert closed.files_with_a_key() == []


@pytest.mark.last
@pytest.mark.fault(
    "Ray's raylet is killed",
    "streams end with an error event (`node_lost`); `starcoder serve` exits with 1 and leaves nothing",
    until="the command's end",
)
def test_the_command_ends_with_the_raylet(closed: Administered, recovered: Callable[[float], None]) -> None:
    recovered(end_with_ray(closed.cluster, "raylet", bearer(closed.secure.key)))
