"""The soak on a real server before a fake backend: what it asks, what it notices, and what it refuses to do."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse

from benchmarks.__main__ import build_parser, main
from benchmarks.server import soak
from benchmarks.server.hostile_clients import Attack, Server, attacks
from deployments.http.connection import GuardedProtocol
from deployments.ingress import create_app
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import FakeBackend
from tests.support.http_server import serving

SHORT = ("--minutes", "0.02", "--clients", "2", "--probe-interval", "0.02")
CHEAP = ("an instruction", "a bomb", "deep lists", "a header without end", "an address without end")
LEAVING = (
    "a client that leaves in a body",
    "a client that leaves before its answer",
    "a client that leaves in a stream",
)


@pytest.fixture
def backend(tokenizer: Tokenizer) -> FakeBackend:
    return FakeBackend(tokenizer, window=8192)


@pytest.fixture
def soaked_app(backend: FakeBackend, tokenizer: Tokenizer) -> FastAPI:
    return create_app(backend=backend, tokenizer=tokenizer)


@pytest.fixture
def soaked(soaked_app: FastAPI) -> Iterator[str]:
    """A server with the limits that hostile requests are made for."""
    with serving(soaked_app, http=GuardedProtocol) as url:
        yield url


def only(monkeypatch: pytest.MonkeyPatch, *chosen: Attack) -> None:
    monkeypatch.setattr(soak, "attacks", lambda: list(chosen))


def test_a_run(
    soaked: str,
    backend: FakeBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    only(monkeypatch, *attacks(*CHEAP, *LEAVING))
    output = tmp_path / "soak.json"
    assert main(["soak", "--url", soaked, *SHORT, "--output", str(output)]) == 0
    assert "hostile /version" in capsys.readouterr().out
    found = json.loads(output.read_text())
    metrics = found["metrics"]
    assert metrics["wrong_answers"] == 0
    assert metrics["idle_requests"] == 0
    assert metrics["ordinary_requests"] > 0
    assert metrics["hostile_requests"] >= len(CHEAP) + len(LEAVING)
    for load in soak.PHASES:
        assert found["samples"][f"{load}_version"]
        assert 0 < metrics[f"p50_{load}_health_ms"] <= metrics[f"max_{load}_health_ms"]
        assert metrics[f"failed_{load}_version"] == 0
    assert any(request.params.max_tokens == 1000 for request in backend.requests)
    assert soaked not in output.read_text()


def test_a_stall_is_seen_and_who_was_there(soaked: str, soaked_app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that would have come during it count too."""

    @soaked_app.get("/stall")
    async def stall() -> None:
        time.sleep(1.0)  # noqa: ASYNC251

    async def attack(server: Server) -> int:
        async with httpx.AsyncClient(timeout=60) as client:
            return (await client.get(f"{soaked}/stall")).status_code

    only(monkeypatch, Attack("a stall", attack, frozenset({200})))
    result = soak.run(build_parser().parse_args(["soak", "--url", soaked, *SHORT, "--clients", "1"]))
    assert result.metrics["max_hostile_version_ms"] > 900
    assert sum(seconds > 0.3 for seconds in result.samples["hostile_version"]) > 10
    assert result.details[0]["during"] == ["a stall"]


def test_wrong_answers_and_missing_ones_are_told(soaked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(server: Server) -> None:
        await asyncio.Event().wait()

    (bomb,) = attacks("a bomb")
    wrong = Attack("a bomb", bomb.perform, frozenset({200}))
    only(monkeypatch, wrong, Attack("one that waits", never, frozenset({None})))
    result = soak.run(build_parser().parse_args(["soak", "--url", soaked, *SHORT, "--patience", "0.5"]))
    assert result.metrics["wrong_answers"] >= 2
    assert {("a bomb", "answered 413"), ("one that waits", "no answer in 0.5 s")} <= set(result.tables["wrong answers"])


async def test_what_stays_open_is_told() -> None:
    app = FastAPI()
    gauge = "starcoder_num_requests_running"

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(f'# TYPE {gauge} gauge\n{gauge}{{model="a"}} 1.0\n{gauge}{{model="b"}} 2.0\n')

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert await soak.left_open(client) == {"num_requests_running": 3.0}
        with pytest.raises(RuntimeError, match="num_requests_running"):
            await soak.settled(client, patience_s=0)


def test_a_run_that_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["soak", "--minutes", "0"]) == 2
    assert main(["soak", "--url", "http://10.0.0.7:8000"]) == 2
    assert "--allow-remote" in capsys.readouterr().err
    assert main(["soak", "--url", "http://127.0.0.1:9"]) == 1
