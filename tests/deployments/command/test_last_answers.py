"""What the end of a server waits for: requests, engines that work, and bytes that clients have not taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.serve.context
from ray.exceptions import GetTimeoutError

from deployments.cluster import haproxy
from deployments.command import last_answers
from deployments.settings import Settings

ADMIN = Path("admin")


class World:
    """HAProxy, its processes, and the answer of `/health`."""

    def __init__(self) -> None:
        self.requests: int | None = 0
        self.unsent = 0
        self.health: tuple[int, bytes] | None = (503, json.dumps({"running": 0, "waiting": 0}).encode())

    def ask(self, admin: Path) -> int:
        assert admin == ADMIN
        if self.requests is None:
            raise ConnectionRefusedError
        return self.requests

    def get(self, path: str) -> tuple[int, bytes] | None:
        assert path == "/health"
        return self.health


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(last_answers, "requests", world.ask)
    monkeypatch.setattr(last_answers, "unsent_bytes", lambda pids: world.unsent)

    def front(settings: Settings) -> World:
        assert settings == Settings()
        return world

    monkeypatch.setattr(last_answers, "front", front)
    return world


def written() -> bool:
    return last_answers._written(Settings(), ADMIN)


def test_without_anything_to_do_all_is_written(world: World) -> None:
    assert written()


def test_a_request_that_haproxy_has_is_waited_for(world: World) -> None:
    world.requests = 1
    assert not written()


def test_bytes_that_a_client_has_not_taken_are_waited_for_even_where_haproxy_answers_nobody(world: World) -> None:
    world.requests, world.unsent = None, 1
    assert not written()
    world.unsent = 0
    assert written()


@pytest.mark.parametrize("kind", ["running", "waiting"])
def test_what_engines_work_on_for_an_older_haproxy_is_waited_for(world: World, kind: str) -> None:
    world.health = (503, json.dumps({"running": 0, "waiting": 0, kind: 1}).encode())
    assert not written()


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'"x"', b'{"error": {"code": "draining"}}', b'{"running": null}']
)
def test_where_there_are_no_engines_any_more_none_works(world: World, body: bytes) -> None:
    world.health = (503, body)
    assert written()
    world.health = None
    assert written()


def test_bytes_are_those_of_haproxys_processes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {1: "/usr/sbin/haproxy -W -f x ", 2: "/usr/bin/python haproxy/cli.py ", 3: "", 4: "/opt/haproxy "}
    monkeypatch.setattr(last_answers, "descendants", lambda: list(lines))
    monkeypatch.setattr(last_answers, "command_line", lines.get)
    asked: list[list[int]] = []
    monkeypatch.setattr(last_answers, "unsent_bytes", lambda pids: asked.append(pids) or 0)
    assert written()
    assert asked == [[1, 4]]


class Clock:
    """Goes on as somebody sleeps; `then` is what happens at a time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.then: dict[int, Callable[[], None]] = {}

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 1
        for at in [at for at in self.then if self.now < at <= self.now + seconds]:
            self.then.pop(at)()
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(last_answers, "time", clock)
    return clock


@pytest.fixture
def behind_haproxy(world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_answers, "haproxy_command", lambda settings: "/usr/sbin/haproxy")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))
    monkeypatch.setattr(haproxy, "admin", {"node": ADMIN}.__getitem__)


@pytest.mark.usefixtures("behind_haproxy")
def test_it_waits_for_haproxy_and_no_longer_than_it_may(world: World, clock: Clock) -> None:
    assert last_answers.wait_for_answers(Settings(), 5)
    assert clock.now == 100
    world.requests = 1
    clock.then[102] = lambda: setattr(world, "requests", 0)
    assert last_answers.wait_for_answers(Settings(), 5)
    assert clock.now == pytest.approx(102, abs=1)
    world.requests, started_at = 1, clock.now
    assert not last_answers.wait_for_answers(Settings(), 5)
    assert clock.now == pytest.approx(started_at + 5, abs=1)


class Proxy:
    """One of Serve's."""

    def __init__(self) -> None:
        self.draining = False
        self.written = True
        self.update_draining = SimpleNamespace(remote=lambda draining: lambda: setattr(self, "draining", draining))
        self.is_drained = SimpleNamespace(remote=lambda: lambda: self.draining and self.written)


@pytest.fixture
def proxies(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[Proxy]:
    proxies = [Proxy(), Proxy()]

    def get(call: Any, timeout: float) -> Any:
        assert timeout >= 0
        if timeout == 0:
            raise GetTimeoutError
        return [one() for one in call] if isinstance(call, list) else call()

    get_proxies = SimpleNamespace(remote=lambda: lambda: dict(enumerate(proxies)))
    client = SimpleNamespace(_controller=SimpleNamespace(get_proxies=get_proxies))
    monkeypatch.setattr(last_answers, "haproxy_command", lambda settings: None)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray.serve.context, "_get_global_client", lambda: client)
    return proxies


def test_serves_own_proxies_say_when_they_have_written_all(proxies: list[Proxy], clock: Clock) -> None:
    proxies[1].written = False
    clock.then[102] = lambda: setattr(proxies[1], "written", True)
    assert last_answers.wait_for_answers(Settings(), 5)
    assert clock.now == pytest.approx(102, abs=1)
    assert all(proxy.draining for proxy in proxies)


def test_one_that_never_has_is_not_waited_for_for_ever(proxies: list[Proxy], clock: Clock) -> None:
    proxies[0].written = False
    assert not last_answers.wait_for_answers(Settings(), 5)
    assert clock.now == pytest.approx(105, abs=1)
