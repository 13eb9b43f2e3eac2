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

from deployments import app
from deployments.app import logging_config
from deployments.cluster import proxy
from deployments.command import local
from deployments.command.front import http_options, local_http_options
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
        self.texts: list[str] = []
        self.fields: dict[str, dict[str, Any]] = {}

    def say(self, text: str, event: str = "", level: str = "info", **fields: Any) -> None:
        self.said.append((event, level))
        self.texts.append(text)
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
    monkeypatch.setattr(local, "local_front", lambda settings, directory: {"A_FRONT": str(directory)})
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
    processes = proxy.environment(made.settings, {"A_FRONT": str(directory)})
    assert processes["A_FRONT"] == str(directory)
    assert environ == {**ours, **processes, "RAY_AUTH_MODE": "disabled", "PATH": "/bin"}
    assert console.said == [("listens", "info")]


@pytest.mark.parametrize(
    ("cores", "needed", "told"), [(None, 0.2, 1), (2, 1.0, 2), (2, 3.2, 4), (4, 3.2, 4), (8, 3.2, 8)]
)
def test_ray_is_told_of_as_many_processors_as_its_processes_ask_for(
    cores: int | None, needed: float, told: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would never start on a machine with fewer."""
    options: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **given: options.update(given))
    monkeypatch.setattr(app, "cpus_needed", lambda settings: needed)
    monkeypatch.setattr(local, "os", SimpleNamespace(environ={}, cpu_count=lambda: cores))
    server(Console())._start_ray()
    assert options["num_cpus"] == told


def test_a_ray_of_its_own_that_does_not_start_says_why_and_nothing_of_tokens(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise OSError("much is said\nthe disk is full\n")

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(local, "has_token", lambda: False)
    monkeypatch.setattr(local, "os", SimpleNamespace(environ={}, cpu_count=lambda: 1))
    with pytest.raises(local.StartError) as failed:
        server(Console())._start_ray()
    assert str(failed.value) == "Ray does not start or cannot be joined: the disk is full"
    assert isinstance(failed.value.__cause__, OSError)


@pytest.mark.parametrize("file", [None, Path("/var/log/starcoder.log")])
def test_processes_write_what_the_console_reads_unless_it_goes_to_a_file(file: Path | None) -> None:
    settings = SETTINGS.model_copy(update={"log_format": "text", "log_file": file})
    made = server(Console(), settings=settings)
    assert made.settings.log_format == ("json" if file is None else "text")
    assert made.settings.model_copy(update={"log_format": "text"}) == settings


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


@pytest.mark.parametrize("certificate", [None, "/a.crt"])
@pytest.mark.parametrize(
    ("has_application", "running", "says"),
    [
        (False, {}, None),
        (True, {}, "has an application 'starcoder' already"),
        (False, {"ssl_certfile": "/b.crt"}, "speaks TLS with another certificate"),
        (False, {"host": "0.0.0.0"}, "^Serve listens at 0.0.0.0:8123 in this cluster, not at 127.0.0.1:8123: give"),
        (False, {"port": 8000}, "^Serve listens at 127.0.0.1:8000 in this cluster, not at 127.0.0.1:8123: give"),
    ],
)
def test_serve_of_a_cluster_that_is_joined_must_be_as_it_would_be_started(
    certificate: str | None,
    has_application: bool,
    running: dict[str, Any],
    says: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secured = {"ssl_certfile": Path(certificate), "ssl_keyfile": Path("/a.key")} if certificate else {}
    settings = SETTINGS.model_copy(update={**secured, "host": "127.0.0.1"})
    config = {"host": "127.0.0.1", "port": 8123, "ssl_certfile": certificate, **running}
    client = SimpleNamespace(http_config=SimpleNamespace(**config))
    monkeypatch.setattr(local, "has_application", lambda: has_application)
    monkeypatch.setattr("ray.serve.context._get_global_client", lambda: client)
    made = server(Console(), "ray:6379", settings)
    with contextlib.nullcontext() if says is None else pytest.raises(local.StartError, match=says):
        made._check_serve()


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
    texts = dict(zip((event for event, _ in said), console.texts, strict=True))
    stopping = "Stopping: open streams may finish. Once more to stop at once."
    assert texts.get("server.stopping", stopping) == stopping
    if ends != "early":
        assert ", with its forward pass in C by AMX. Try:" in texts["server.ready"]
        told = console.fields["server.ready"]
        assert 0 <= told.pop("seconds") < 60
        assert told == {"forward": "native", "forward_reason": None, "forward_products": "amx"}


@pytest.mark.parametrize("as_json", [False, True])
def test_a_cluster_that_is_joined_is_watched_and_told_of(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [None, None, "somebody deleted the application"]
    given: list[object] = []
    now = [100.0]

    class FakeServer:
        def __init__(self, *arguments: object) -> None:
            given.extend(arguments)

        def start(self) -> None:
            now[0] += 7.2345

        def lost(self) -> str | None:
            return looks.pop(0)

        def stop(self) -> None:
            given.append("stopped")

    def sleep(seconds: float) -> None:
        given.append(seconds)

    console = Console()
    console.as_json = as_json
    monkeypatch.setenv("RAY_ADDRESS", "ray:6379")
    monkeypatch.setattr(local, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setattr(local, "Server", FakeServer)
    monkeypatch.setattr(local, "check", lambda *of, local: given.append((*of, f"local {local}")))
    monkeypatch.setattr(local, "forward", lambda settings: given.append(settings))
    monkeypatch.setattr(local.signals, "obeyed", contextlib.nullcontext)
    build: Any = object()
    assert local._serve(SETTINGS, console, build) == 1  # type: ignore[arg-type]
    waits = [local.WATCH_S] * 2
    made = SETTINGS, console, "ray:6379", build
    assert given == [(SETTINGS, console, "local False"), *made, SETTINGS, *waits, "stopped"]
    ready, *others = console.texts
    assert others == ["Ending: somebody deleted the application.", "Stopped."]
    assert ready.startswith("Ready after 7.2 s: ")
    assert ("curl" in ready) is not as_json
    assert ready.partition(" Try:")[0].endswith("/docs).")
    assert console.fields["server.ready"] == {"seconds": 7.23}


def test_where_ray_has_died_the_process_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When all is written: at the interpreter's end Ray would be waited for."""
    did: list[object] = []

    def made(format: str, keep_text: bool) -> SimpleNamespace:
        did.append((format, keep_text))
        return SimpleNamespace(as_json=True, alone=contextlib.nullcontext, flush=lambda: did.append("written"))

    settings = SETTINGS.model_copy(update={"log_format": "text", "log_text": True})
    monkeypatch.setattr(local, "Console", made)
    monkeypatch.setattr(local, "dead_servers", lambda: ["raylet"])
    monkeypatch.setattr(local, "os", SimpleNamespace(_exit=lambda code: did.append(f"end with {code}")))
    monkeypatch.setattr(local, "_serve", lambda *given: did.append(given) or 0)
    build: Any = object()
    local.serve_forever(settings, build)
    assert did[0] == ("text", True)
    assert did[1][2] is build  # type: ignore[index]
    assert did[2:] == ["written", "end with 1"]


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
