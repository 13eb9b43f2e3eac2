"""Editing sessions on a real server that stands before a fake backend."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from benchmarks.__main__ import build_parser
from benchmarks.metrics import Timeline
from benchmarks.server import editing
from benchmarks.server.completions import Completion
from benchmarks.server.editing import Asked, edit
from benchmarks.server.keystrokes import digest, metrics, plan_sessions, run
from benchmarks.server.server_counters import growth, read_counters
from benchmarks.server.typing_model import Pause
from tests.support.fake_backend import FakeBackend
from tests.support.virtual_time import VirtualTimeLoop
from tests.support.waiting import wait_until


def options(*arguments: str) -> Any:
    return build_parser().parse_args(["keystrokes", *arguments])


def asked(
    pieces: list[tuple[float, str]], *, next_key: float | None, finished: bool = True, first: bool = False
) -> Asked:
    timeline = Timeline(0.0, prompt_tokens=100, output_tokens=2 * len(pieces), pieces=[at for at, _ in pieces])
    timeline.cached_tokens = 80 if finished else None
    return Asked(Completion(timeline, [text for _, text in pieces], finished), next_key, first, not finished)


PIECES = [(0.1, "\n"), (0.2, "a = "), (0.3, "1\nb"), (0.4, " = 2")]


def test_when_the_first_line_is_there() -> None:
    assert asked(PIECES, next_key=None).first_line_at == 0.3
    assert asked(PIECES[:2], next_key=None).first_line_at == 0.2  # it ended
    assert asked(PIECES[:2], next_key=None, finished=False).first_line_at is None
    assert asked([(0.1, " \n")], next_key=None).first_line_at is None  # nothing to show
    assert asked([(0.1, "a\n"), (0.2, "b")], next_key=None).first_line_at == 0.1  # with the first token, never before


def test_what_is_shown_and_what_is_not() -> None:
    whole, half, late = (asked(PIECES, next_key=at) for at in (None, 0.35, 0.25))
    cut = asked(PIECES[:3], next_key=0.35, finished=False)
    assert [a.shown for a in (whole, half, late, cut)] == [True, True, False, True]
    assert [a.shown_tokens for a in (whole, half, late, cut)] == [8, 6, 0, 3]
    found = metrics([whole, half, late, cut], 1.0, {})
    assert found["tokens_generated"] == 8 + 8 + 8 + 3
    assert found["tokens_never_shown"] == 27 - 17
    assert found["tokens_counted_by"] == "client"
    counted = {"generation_tokens_total": 37.0, "prefix_cache_queries_total": 400.0, "prefix_cache_hits_total": 100.0}
    found = metrics([whole, half, late, cut], 1.0, counted)
    assert found["percent_tokens_never_shown"] == pytest.approx(100 * 20 / 37)
    assert found["percent_prompt_cached_server"] == 25
    assert (found["superseded"], found["finished"], found["percent_shown"]) == (1, 3, 75)


def test_the_first_request_of_a_session_fills_the_cache() -> None:
    cold = asked(PIECES, next_key=None, first=True)
    cold.completion.timeline.cached_tokens = 0
    found = metrics([cold, asked(PIECES, next_key=None)], 1.0, {})
    assert found["percent_prompt_cached"] == 40
    assert found["percent_prompt_cached_after_first"] == 80


def test_the_plan_is_the_same_for_the_same_seed() -> None:
    plan = plan_sessions(options("--editors", "3"))
    assert digest(plan) == digest(plan_sessions(options("--editors", "3")))
    assert digest(plan) != digest(plan_sessions(options("--editors", "3", "--seed", "1")))
    fast = plan_sessions(options("--editors", "3", "--speed", "10"))
    assert [p.at for p in fast[0][1]] == pytest.approx([p.at / 10 for p in plan[0][1]])
    with pytest.raises(ValueError, match="speed"):
        plan_sessions(options("--speed", "0"))


def test_a_run(url: str, fake_backend: FakeBackend, tmp_path: Path) -> None:
    source = tmp_path / "app.py"
    source.write_text("".join(f"def f{i}(x):\n    return x + {i}\n" for i in range(12)))
    result = run(
        options(
            str(source),
            *("--url", url, "--editors", "2", "--lines", "3", "--speed", "200", "--ramp", "1", "--max-tokens", "8"),
            *("--fim-mode", "spm", "--stop", "\n\n"),
        )
    )
    found = result.metrics
    assert found["requests"] == found["finished"] + found["superseded"] >= 4
    assert found["failed"] == 0
    assert found["finished"] >= 2  # the last of each editor at least
    assert found["p95_ttft_ms"] > 0
    assert found["p50_time_to_first_line_ms"] > 0  # of those with a line: not the same requests as have a first token
    assert 0 <= found["percent_tokens_never_shown"] <= 100
    assert found["percent_prompt_cached"] > 50
    assert result.settings["files"] == ["app.py"]
    assert {r.user for r in fake_backend.requests} == {"editor-0", "editor-1"}
    assert all(r.stop == ("\n\n",) for r in fake_backend.requests)


async def test_a_request_can_be_given_up_at_the_next_key(url: str, fake_backend: FakeBackend) -> None:
    """Which may ask for nothing."""
    fake_backend.gate = asyncio.Event()  # one token, then nothing
    plan = [Pause(0.0, 1, next_key=0.2)]
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        work = asyncio.create_task(
            edit(client, plan, lambda _: {"prompt": "x"}, started=time.perf_counter(), cancel_on="key")
        )
        await asyncio.to_thread(wait_until, lambda: len(fake_backend.closed) == len(fake_backend.requests) == 1)
        (asked,) = await work
    assert asked.superseded


@pytest.mark.parametrize(("cancel_on", "given_up"), [("request", [0.6, 0.9]), ("key", [0.2, 0.7])])
def test_when_older_requests_are_given_up(
    monkeypatch: pytest.MonkeyPatch, cancel_on: Any, given_up: list[float]
) -> None:
    """None of them ever ends by itself."""
    loop = VirtualTimeLoop()
    ended: list[float] = []

    async def ask(client: object, body: dict[str, int], completion: Completion, session_id: str | None) -> None:
        assert (body["typed"], session_id) == (len(asked_at) + 1, "s")
        asked_at.append(loop.time())
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            ended.append(loop.time())
            raise
        completion.finished = True

    asked_at: list[float] = []
    monkeypatch.setattr(editing, "time", SimpleNamespace(perf_counter=loop.time))
    monkeypatch.setattr(editing, "stream", ask)
    plan = [Pause(0.0, 1, next_key=0.2), Pause(0.6, 2, next_key=0.7), Pause(0.9, 3, next_key=None)]
    try:
        session = loop.run_until_complete(
            edit(
                httpx.AsyncClient(),
                plan,
                lambda typed: {"typed": typed},
                started=0.0,
                cancel_on=cancel_on,
                session_id="s",
            )
        )
    finally:
        loop.close()
    assert asked_at == pytest.approx([0.0, 0.6, 0.9])
    assert ended == pytest.approx(given_up)
    assert [a.superseded for a in session] == [True, True, False]


@pytest.mark.parametrize("cancel_on", ["request", "key"])
async def test_older_requests_are_cancelled(url: str, fake_backend: FakeBackend, cancel_on: Any) -> None:
    fake_backend.gate = asyncio.Event()  # one token each, then nothing
    plan = [Pause(0.0, 1, next_key=0.2), Pause(0.6, 2, next_key=0.7), Pause(0.9, 3, next_key=None)]
    body = {"prompt": "x", "max_tokens": 20, "temperature": 0}

    def sent() -> list[int | None]:
        return [r.params.seed for r in fake_backend.requests]

    def only_the_last_is_open() -> bool:
        return 3 in sent() and len(fake_backend.closed) == len(sent()) - 1

    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        started = time.perf_counter()
        work = asyncio.create_task(
            edit(client, plan, lambda typed: {**body, "seed": typed}, started=started, cancel_on=cancel_on)
        )
        await asyncio.to_thread(
            wait_until, only_the_last_is_open, lambda: f"sent {sent()}, ended {fake_backend.closed}"
        )
        fake_backend.gate.set()
        session = await work
    assert [a.superseded for a in session] == [True, True, False]
    assert [a.first for a in session] == [True, False, False]
    assert session[-1].completion.finished
    assert all(a.completion.timeline.error is None for a in session)


async def test_counters_of_the_server() -> None:
    text = (
        "# TYPE starcoder_generation_tokens_total counter\n"
        'starcoder_generation_tokens_total{model="a"} 5\nstarcoder_generation_tokens_total{model="b"} 7\n'
        "# TYPE vllm:prefix_cache_hits_total counter\nvllm:prefix_cache_hits_total 3\nother_total 1\n"
    )
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=text))
    async with httpx.AsyncClient(base_url="http://test", transport=transport) as client:
        found = await read_counters(client)
    of_a, of_b = (("generation_tokens_total", (("model", name),)) for name in "ab")
    assert found == {of_a: 5.0, of_b: 7.0, ("prefix_cache_hits_total", ()): 3.0}
    assert growth({of_a: 2.0}, found) == {"generation_tokens_total": 10.0, "prefix_cache_hits_total": 3.0}
    for before in (None, {of_a: 1.0, of_b: 8.0}, {("generation_tokens_total", (("model", "c"),)): 0.0}):
        assert growth(before, found) == {}, "a sum grows also where one of its series began anew, or is gone"
    nothing = httpx.MockTransport(lambda request: httpx.Response(404))
    async with httpx.AsyncClient(base_url="http://test", transport=nothing) as client:
        assert await read_counters(client) is None
