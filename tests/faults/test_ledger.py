"""A closed server: what a team has used is on the ledger, though whoever kept account of it is killed; and its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.closed import Closed, closed
from deployments.teams.records import LedgerEntry
from deployments.teams.store import Store
from tests.support.cluster import Cluster
from tests.support.processes import kill
from tests.support.ray_end import end_with_ray
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.faults

MOST_TOKENS = 1900


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("closed")


@pytest.fixture(scope="module")
def closing(directory: Path) -> Closed:
    return closed(directory)


@pytest.fixture(scope="module")
def server(closing: Closed, tiny_checkpoint: Path, directory: Path) -> Iterator[Cluster]:
    options = ("--dtype", "float32", "--num-threads", "1", "--speculative-tokens", "0")
    server = Cluster(tiny_checkpoint, directory / "serve.txt", *options, **closing.environment)
    with server.running():
        yield server


def body(**fields: object) -> dict[str, object]:
    return {"prompt": "def f(x):", "ignore_eos": True, **fields}


def ledger(closing: Closed) -> list[LedgerEntry]:
    async def read() -> list[LedgerEntry]:
        store = await Store.open(closing.environment["STARCODER_TEAMS__DATABASE"])
        try:
            return [entry async for entry in store.entries(0.0, 4_000_000_000.0)]
        finally:
            await store.close()

    return asyncio.run(read())


def answer(server: Cluster, headers: dict[str, str]) -> dict[str, Any] | None:
    """What an answer of eight tokens says it used; None while the server has none to give."""
    try:
        said = httpx.post(f"{server.url}/v1/completions", json=body(max_tokens=8), headers=headers, timeout=PATIENCE_S)
    except httpx.HTTPError:
        return None
    return said.json()["usage"] if said.status_code == 200 else None


def stream(server: Cluster, headers: dict[str, str], when_it_runs: Callable[[], None]) -> None:
    heard = 0
    request = body(max_tokens=MOST_TOKENS, stream=True)
    with httpx.stream("POST", f"{server.url}/v1/completions", json=request, headers=headers, timeout=240) as response:
        for line in response.iter_lines():
            heard += line.startswith("data: {")
            if heard == 20:
                when_it_runs()


@pytest.mark.fault(
    "an ingress is killed while it keeps account of a team",
    "what was answered is on the ledger; a request under way with its prompt and what was told of it a second before",
    until="booked",
)
def test_an_ingress_is_killed(server: Cluster, closing: Closed, recovered: Callable[[float], None]) -> None:
    headers = {"authorization": f"Bearer {closing.keys[0]}"}
    usage = answer(server, headers)
    assert usage is not None
    (ingress,) = server.settled_pids("ServeReplica:starcoder:ingress")
    with pytest.raises(httpx.HTTPError):
        stream(server, {**headers, "x-request-id": "cut-off"}, lambda: kill(ingress))
    killed_at = time.monotonic()
    wait_until(lambda: answer(server, headers), server.text, period_s=0.2)
    wait_until(lambda: any(entry.estimated for entry in ledger(closing)), server.text, period_s=0.5)
    recovered(time.monotonic() - killed_at)
    wait_until(lambda: len(ledger(closing)) >= 3, server.text, period_s=0.5)
    entries = ledger(closing)
    (cut_off,) = [entry for entry in entries if entry.estimated]
    assert (cut_off.request_id, cut_off.kind, cut_off.prompt_tokens) == ("cut-off", "failed", usage["prompt_tokens"])
    assert 0 <= cut_off.completion_tokens < MOST_TOKENS
    for entry in entries:
        if entry is not cut_off:
            assert (entry.kind, entry.prompt_tokens) == ("completed", usage["prompt_tokens"])
            assert entry.completion_tokens == usage["completion_tokens"] == 8


@pytest.mark.last
@pytest.mark.fault(
    "Ray's raylet is killed",
    "streams end with an error event (`node_lost`); `starcoder serve` exits with 1 and leaves nothing",
    until="the command's end",
)
def test_the_command_ends_with_the_raylet(server: Cluster, closing: Closed, recovered: Callable[[float], None]) -> None:
    recovered(end_with_ray(server, "raylet", {"authorization": f"Bearer {closing.keys[0]}"}))
