"""The server of this machine by itself: what it tells Ray, how it ends, and when there is nothing left to wait for.

On a real Ray: tests/e2e, tests/faults.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import serve

from deployments.cluster import roster
from deployments.command import local
from deployments.command.local import Server, StartError, bounded
from deployments.settings import Settings


class Console:
    """What the command says."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.listens = False

    def say(self, text: str, event: str = "", level: str = "info", **fields: Any) -> None:
        self.said.append((event, level))

    def listen_to_workers(self) -> None:
        self.listens = True


class World:
    """Ray and Serve. does: what was asked of them, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.does: list[object] = []
        self.dead: list[str] = []
        self.written = [True]
        self.now = 1000.0
        self.application: bool | Exception = True
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "init", lambda **options: self.does.append(options))
        monkeypatch.setattr(serve, "delete", lambda name: self.does.append(f"delete {name}"))
        monkeypatch.setattr(serve, "shutdown", lambda: self.does.append("shut Serve down"))
        monkeypatch.setattr(roster, "say_draining", lambda seconds: self.does.append(f"drains {seconds:g}"))
        monkeypatch.setattr(roster, "say_serving", lambda: self.does.append("serves"))
        monkeypatch.setattr(local, "dead_servers", lambda: self.dead)
        monkeypatch.setattr(local, "end_streams", lambda: self.does.append("end streams"))
        monkeypatch.setattr(local, "has_application", self._has_application)
        monkeypatch.setattr(local, "wait_for_answers", self._wait_for_answers)
        monkeypatch.setattr(local, "has_token", lambda: False)
        monkeypatch.setattr(local.signals, "listen", lambda: None)

    def _has_application(self) -> bool:
        if isinstance(self.application, Exception):
            raise self.application
        return self.application

    def _wait_for_answers(self, settings: Settings, seconds: float) -> bool:
        self.does.append(f"wait {seconds:.0f}")
        return self.written.pop(0) if len(self.written) > 1 else self.written[0]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def console() -> Console:
    return Console()


def server(console: Console, address: str | None = None) -> Server:
    made = Server(Settings(drain_timeout_s=20), console, address, None)  # type: ignore[arg-type]
    made._owns_application = made._owns_serve = True
    return made


@pytest.mark.parametrize(("written", "said"), [([True], []), ([True, False], [("server.answers_cut", "warning")])])
def test_the_application_goes_when_its_answers_are_written_and_serve_after_it(
    written: list[bool], said: list[object], world: World, console: Console
) -> None:
    world.written = written
    server(console)._stop_application()
    assert world.does == ["drains 35", "wait 10", "delete starcoder", "serves", "wait 20", "shut Serve down"]
    assert console.said == said


def test_what_was_there_before_stays(world: World, console: Console) -> None:
    other = server(console, "ray:6379")
    other._owns_application = other._owns_serve = False
    other._stop_application()
    assert world.does == []


def test_streams_of_a_dead_ray_are_ended_and_not_waited_for(world: World, console: Console) -> None:
    world.dead = ["raylet"]
    server(console)._stop_application()
    assert world.does == ["end streams"]
    assert console.said == [("server.ray_ended", "error")]


def test_a_cluster_that_was_joined_is_told_no_more_than_it_must_be(
    world: World, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "as it was")
    monkeypatch.delenv("RAY_AUTH_MODE")
    joined = server(console, "ray:6379")
    joined._start_ray()
    assert world.does == [
        {"address": "ray:6379", "logging_level": "ERROR", "log_to_driver": True, "configure_logging": True}
    ]
    assert (os.environ["RAY_USAGE_STATS_ENABLED"], os.environ.get("RAY_AUTH_MODE")) == ("0", None)
    assert console.listens
    monkeypatch.setattr(local, "has_token", lambda: True)
    joined._start_ray()
    assert os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize(("token", "hint"), [(False, local.NO_TOKEN), (True, "")])
def test_a_cluster_that_cannot_be_joined_says_why(
    token: bool, hint: str, world: World, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: object) -> None:
        raise RuntimeError("much\nis said") from ConnectionError("before\nnobody answers\n")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(local, "has_token", lambda: token)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(StartError) as failed:
        server(console, "ray:6379")._start_ray()
    assert str(failed.value) == f"Ray does not start or cannot be joined: nobody answers{hint}"


def test_what_is_lost(world: World, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "time", SimpleNamespace(monotonic=lambda: world.now))
    monkeypatch.setattr(local, "bounded", at_once)
    own, joined = server(console), server(console, "ray:6379")
    world.application = False
    assert own.lost() is None
    assert joined.lost() == "somebody deleted the application"
    world.application = True
    assert joined.lost() is None, "it was asked a moment ago"
    world.now += 5
    assert joined.lost() is None
    world.application = ConnectionError()
    for seconds in (5, 20, 5):
        world.now += seconds
        assert joined.lost() is None
    world.now += 5
    assert joined.lost() == "the cluster at ray:6379 is gone"
    world.dead = ["gcs_server", "raylet"]
    assert own.lost() == joined.lost() == "Ray's gcs_server, raylet ended"


def at_once(work: Callable[[], None], seconds: float) -> bool:
    try:
        work()
    except ConnectionError:
        return False
    return True


def test_work_is_waited_for_so_long_or_until_it_makes_no_sense() -> None:
    end = threading.Event()
    try:
        assert bounded(lambda: None, 60)
        assert not bounded(end.wait, 0)
        assert not bounded(end.wait, 60, until=lambda: True)
    finally:
        end.set()
