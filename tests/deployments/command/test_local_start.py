"""The server of this machine as it starts and ends: what it tells Ray and Serve, and whoever reads its log.

On a real Ray: tests/e2e, tests/faults.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import serve

from deployments.app import logging_config
from deployments.cluster import proxy
from deployments.command import local
from deployments.command.front import http_options, local_front, local_http_options
from deployments.command.local import Server
from deployments.command.signals import Stopped
from deployments.settings import Settings
from model.config import ConfigError


class Console:
    """What the command says, and whether it shows what others print."""

    as_json = False
    show_foreign = False

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.fields: dict[str, dict[str, Any]] = {}

    def say(self, text: str, event: str = "", level: str = "info", **fields: Any) -> None:
        self.said.append((event, level))
        self.fields[event] = fields

    def listen_to_workers(self) -> None:
        self.said.append(("listens", "info"))


SETTINGS = Settings(proxy="python", port=8123)


def server(console: Console, address: str | None = None, settings: Settings = SETTINGS) -> Server:
    return Server(settings, console, address)  # type: ignore[arg-type]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ray's own, of a server that starts it; nothing of this process changes."""
    directory = tmp_path / "private"
    directory.mkdir(mode=0o700)
    for name in ("adopt_orphans", "remove_stale", "keep_few"):
        monkeypatch.setattr(local, name, lambda: None)
    monkeypatch.setattr(local, "private_directory", lambda: directory)
    monkeypatch.setattr(local, "start_node", lambda begin: begin())
    monkeypatch.setattr(local.signals, "listen", lambda: None)
    return directory


@pytest.mark.parametrize("metrics", [{}, {"metrics_port": None}, {"metrics_dir": Path("/elsewhere")}])
def test_ray_is_started_for_this_machine_alone(
    metrics: dict[str, Any], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    environ = {"RAY_AUTH_MODE": "disabled", "PATH": "/bin"}
    monkeypatch.setattr(ray, "init", lambda **options: told.append(options))
    monkeypatch.setattr(local, "os", SimpleNamespace(environ=environ, cpu_count=lambda: 64))
    settings = SETTINGS.model_copy(update=metrics)
    made = server(console := Console(), settings=settings)
    made._start_ray()
    (options,) = told
    assert options == {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": 64,
        "object_store_memory": local.OBJECT_STORE_BYTES,
        "_temp_dir": f"{directory}/r",
        "logging_level": "ERROR",
        "log_to_driver": True,
        "configure_logging": True,
    }
    assert made.settings.metrics_dir == (settings.metrics_dir or directory / "metrics")
    ours = local._RAY_ENVIRONMENT | (local._RAY_METRICS if settings.metrics_port is not None else {})
    processes = proxy.environment(made.settings, local_front(made.settings, directory))
    assert environ == {**ours, **environ, **processes, "RAY_AUTH_MODE": "disabled", "PATH": "/bin"}
    assert environ.keys() == ours.keys() | processes.keys() | {"PATH"}
    assert console.said == [("listens", "info")]


def test_a_directory_that_others_can_enter_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", lambda **_: directory.chmod(0o750))
    monkeypatch.setattr(local, "os", SimpleNamespace(environ={}, cpu_count=lambda: 1))
    with pytest.raises(local.StartError, match="is open to other users"):
        server(Console())._start_ray()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """What Serve is started with."""
    started: list[object] = []
    monkeypatch.setattr(serve, "start", lambda **options: started.append(options))
    monkeypatch.setattr(local, "serve_runs", lambda: False)
    before = logging.getLogger("ray.serve").level, logging.getLogger().level
    yield started
    assert logging.getLogger().level == before[1], "nobody else's"
    logging.getLogger("ray.serve").setLevel(before[0])


@pytest.mark.parametrize("address", [None, "ray:6379"])
def test_serve_is_started_where_clients_ask(address: str | None, started: list[object]) -> None:
    made = server(Console(), address, SETTINGS.model_copy(update={"log_level": "error"}))
    made._start_serve()
    location, options = (
        ("HeadOnly", local_http_options(SETTINGS))
        if address is None
        else ("EveryNode", http_options(SETTINGS, behind_haproxy=False))
    )
    config = logging_config(made.settings)
    assert started == [{"http_options": options, "proxy_location": location, "logging_config": config}]
    assert logging.getLogger("ray.serve").level == logging.ERROR


@pytest.mark.parametrize("runs", [False, True])
def test_serve_that_ran_before_is_looked_at_and_somebody_elses(
    runs: bool, started: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[bool] = []
    monkeypatch.setattr(local, "serve_runs", lambda: runs)
    made = server(Console(), "ray:6379")
    monkeypatch.setattr(made, "_check_serve", lambda: checked.append(True))
    made._start_serve()
    assert (made._owns_serve, checked) == (not runs, [True] * runs)


@pytest.mark.parametrize("level", ["info", "debug"])
def test_what_others_print_is_shown_once_it_has_started(
    level: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = server(console := Console(), settings=SETTINGS.model_copy(update={"log_level": level}))

    def start() -> None:
        assert console.show_foreign is (level == "debug")
        print("of Ray")
        print("of Serve", file=sys.stderr)

    monkeypatch.setattr(made, "_start", start)
    made.start()
    assert console.show_foreign is True
    assert capsys.readouterr() == (("of Ray\n", "of Serve\n") if level == "debug" else ("", ""))


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        ("stopped", 0, [("server.ready", "info"), ("server.stopping", "info"), ("server.stopped", "info")]),
        ("lost", 1, [("server.ready", "info"), ("server.lost", "error"), ("server.stopped", "info")]),
        ("early", 0, [("server.stopping", "info"), ("server.stopped", "info")]),
    ],
)
def test_how_it_ends_is_said_last(
    ends: str, code: int, said: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []

    class FakeServer:
        def __init__(self, *given: object) -> None:
            assert given == (SETTINGS, console, None, None)

        def start(self) -> None:
            if ends == "early":
                raise Stopped

        def lost(self) -> str | None:
            if ends == "stopped":
                raise Stopped
            return "Ray's raylet ended"

        def stop(self) -> None:
            did.append("stop")
            assert ("server.stopped", "info") not in console.said

    console = Console()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(local, "Server", FakeServer)
    monkeypatch.setattr(local, "check", lambda settings, console, local: did.append(f"check, local {local}"))
    monkeypatch.setattr(local, "forward", lambda settings: {"path": "native", "reason": None, "products": "amx"})
    monkeypatch.setattr(local.signals, "obeyed", contextlib.nullcontext)
    assert local._serve(SETTINGS, console, None) == code  # type: ignore[arg-type]
    assert did == ["check, local True", "stop"]
    assert console.said == said
    if ends != "early":
        told = console.fields["server.ready"]
        assert 0 <= told.pop("seconds") < 60
        assert told == {"forward": "native", "forward_reason": None, "forward_products": "amx"}


@pytest.mark.parametrize(
    ("error", "code", "exception"),
    [(ConfigError("no such model"), 2, None), (local.StartError("no engine"), 1, None), (KeyError("x"), 1, "KeyError")],
)
def test_where_the_log_is_json_a_failure_is_a_line_of_it(
    error: Exception, code: int, exception: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[tuple[str, str, str]] = []
    flushed: list[int] = []

    def say(text: str, event: str, level: str, exception: str | None) -> None:
        assert (expected is None) == (exception is None)
        assert expected is None or (exception is not None and expected in exception)
        lines.append((text, event, level))

    def fail(*given: object) -> int:
        assert given == (SETTINGS, console, None)
        raise error

    expected = exception
    console = SimpleNamespace(as_json=True, alone=contextlib.nullcontext, say=say, flush=lambda: flushed.append(1))
    monkeypatch.setattr(local, "Console", lambda format, keep_text: console)
    monkeypatch.setattr(local, "dead_servers", list)
    monkeypatch.setattr(local, "_serve", fail)
    assert local.serve_forever(SETTINGS) == code
    assert lines == [(str(error), "server.failed", "error")]
    console.as_json = False
    with pytest.raises(type(error)):
        local.serve_forever(SETTINGS)
    assert flushed == [1, 1]
