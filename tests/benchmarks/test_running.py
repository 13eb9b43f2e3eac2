"""Servers end with everything below them, whatever they do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import running
from tests.support.processes import is_gone

CHILD = "setsid sleep 600 & echo $! > {file}; "


def read(file: Path) -> int:
    return int(file.read_text() or 0) if file.exists() else 0


def test_one_that_does_not_obey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "STOP_S", 0.1)
    monkeypatch.setattr(running, "LEAVE_S", 0.1)
    file = tmp_path / "child"
    command = ["sh", "-c", "trap '' TERM; " + CHILD.format(file=file) + "while :; do sleep 0.1; done"]
    with running.running(command, {"PATH": "/usr/bin:/bin"}, lambda log: read(file) > 0, start_s=60) as server:
        pids = [server.pid, read(file)]
        assert not any(map(is_gone, pids))
        assert server.log.parent.is_dir()
        assert 0 < server.ready_seconds < 60
    assert all(map(is_gone, pids))
    assert not server.log.parent.exists()


def test_one_that_is_never_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LEAVE_S", 0.1)
    file = tmp_path / "child"
    command = ["sh", "-c", CHILD.format(file=file) + "echo no luck; exec sleep 600"]
    with (
        pytest.raises(RuntimeError, match="does not start:\nno luck"),
        running.running(command, {"PATH": "/usr/bin:/bin"}, lambda log: False, start_s=0.5),
    ):
        pass
    assert is_gone(read(file))
