"""The last part of a start: the application is deployed, and watched until it answers or never will."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve
from ray.serve.schema import ApplicationStatus

from deployments.app import APP_NAME
from deployments.cluster import progress, roster
from deployments.command import local
from deployments.command.local import POLL_S, Server, StartError
from deployments.settings import Settings

SETTINGS = Settings(proxy="python", port=8123, start_timeout_s=30)


class Steps:
    """The console: the parts of a start, each with what was said meanwhile."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, list[str]]] = []

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        self.steps.append((name, said := []))
        yield said.append


class World:
    """Ray and Serve, by looks: what each of them finds, one after the other; the last one stays.

    does: what was asked of them, in order. slept: in seconds.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.does: list[object] = []
        self.statuses: list[Any] = [application("RUNNING")]
        self.healthy: list[bool] = [True]
        self.shares: list[float | None] = [None]
        self.slept = 0.0
        clock = SimpleNamespace(monotonic=lambda: 1000 + self.slept, sleep=self._sleep)
        monkeypatch.setattr(local, "time", clock)
        monkeypatch.setattr(serve, "status", self._status)
        monkeypatch.setattr(serve, "RunTarget", lambda target, name: (target, name))
        monkeypatch.setattr(serve, "run_many", lambda targets, **options: self.does.append((targets, options)))
        monkeypatch.setattr(progress, "clear", lambda: self.does.append("forget how far it is"))
        monkeypatch.setattr(progress, "read", lambda: self._next(self.shares))
        monkeypatch.setattr(roster, "say_serving", lambda: self.does.append("say that it serves"))
        monkeypatch.setattr(local, "answer", self._answer)

    @staticmethod
    def _next(looks: list[Any]) -> Any:
        return looks.pop(0) if len(looks) > 1 else looks[0]

    def _sleep(self, seconds: float) -> None:
        assert seconds == POLL_S
        self.slept += seconds

    def _status(self) -> Any:
        found = self._next(self.statuses)
        others = {"another": application("DEPLOY_FAILED", "not ours")}
        return SimpleNamespace(applications=others if found is None else {**others, APP_NAME: found})

    def _answer(self, settings: Settings, path: str) -> bytes | None:
        assert (settings.port, path) == (8123, "/health")
        return b"{}" if self._next(self.healthy) else None


def application(status: str, message: str = "") -> Any:
    return SimpleNamespace(status=ApplicationStatus(status), message=message, deployments={})


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def server(console: Steps, address: str | None = None) -> Server:
    return Server(SETTINGS, console, address, lambda settings: f"of {settings.model_id}")  # type: ignore[arg-type]


def test_it_returns_when_the_application_answers(world: World) -> None:
    world.statuses = [application("DEPLOYING"), application("RUNNING")]
    world.healthy = [False, False, True]
    world.shares = [None, 0.25, 0.995, 0.995]
    said: list[str] = []
    made = server(Steps())
    made._deploy(said.append)
    assert world.slept == pytest.approx(3 * POLL_S)
    assert said == ["loading weights: 25%", "loading weights: 100%"]
    assert made._owns_application
    targets = [(f"of {SETTINGS.model_id}", APP_NAME)]
    started = (targets, {"wait_for_applications_running": False})
    assert world.does == ["forget how far it is", "say that it serves", started]


def test_what_will_never_answer_is_given_up(world: World) -> None:
    world.statuses = [
        application("DEPLOYING"),
        application("DEPLOYING", "ValueError: x\nConfigError: no such model: x"),
    ]
    with pytest.raises(StartError, match=r"^no such model: x$"):
        server(Steps())._deploy(print)
    assert world.slept == pytest.approx(POLL_S)
    world.statuses = [application("DEPLOY_FAILED", "it died")]
    with pytest.raises(StartError, match=r"^it died$"):
        server(Steps())._deploy(print)
    world.statuses = [application("DEPLOYING"), None]
    with pytest.raises(StartError, match="deleted by somebody else"):
        server(Steps())._deploy(print)


def test_what_does_not_answer_in_time_is_given_up(world: World) -> None:
    world.healthy = [False]
    with pytest.raises(StartError, match=r"^the engine did not start within 30 s$"):
        server(Steps())._deploy(print)
    assert world.slept == pytest.approx(30, abs=POLL_S)


@pytest.mark.parametrize(
    ("address", "first"), [(None, "starting Ray"), ("ray://head:10001", "joining Ray at ray://head:10001")]
)
def test_each_part_is_told(address: str | None, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = server(console := Steps(), address)
    begun: list[str] = []
    for name in ("_start_ray", "_start_serve"):
        monkeypatch.setattr(made, name, lambda: begun.append(console.steps[-1][0]))
    monkeypatch.setattr(made, "_deploy", lambda say: say("loading weights: 3%"))
    made._start()
    assert console.steps == [(first, []), ("starting Serve", []), ("starting the engine", ["loading weights: 3%"])]
    assert begun == [first, "starting Serve"]
