"""Private directories: their owner's alone, and gone with it, however it ended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deployments.cluster import temporary


def directory_of(pid: int | str, parent: Path) -> Path:
    """As a process has it, with a socket in it."""
    directory = parent / f"{temporary.PREFIX}{pid}-abc"
    directory.mkdir()
    (directory / "engine.sock").touch()
    return directory


@pytest.fixture
def ended() -> int:
    """The process id of one that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_directory_is_its_owners_alone(tmp_path: Path) -> None:
    directory = temporary.private_directory(tmp_path)
    assert directory.parent == tmp_path
    assert directory.name.startswith(f"starcoder-{os.getpid()}-")
    assert directory.stat().st_mode & 0o777 == 0o700


def test_by_itself_it_is_where_paths_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: int) -> None:
    monkeypatch.setattr(temporary, "short_parent", lambda: tmp_path)
    stale = directory_of(ended, tmp_path)
    assert temporary.private_directory().parent == tmp_path
    temporary.remove_stale()
    assert not stale.exists()


def test_where_nobody_may_write_to_tmp_the_system_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    assert temporary.short_parent() == Path("/tmp")
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)))
    assert temporary.short_parent() == Path(tempfile.gettempdir())
    assert asked == [(Path("/tmp"), os.W_OK)]


def test_directories_of_dead_processes_are_removed(tmp_path: Path, ended: int) -> None:
    stale = directory_of(ended, tmp_path)
    others = [directory_of("nobody", tmp_path), directory_of(os.getppid(), tmp_path), tmp_path / "other-1-abc"]
    others[-1].mkdir()
    living = temporary.private_directory(tmp_path)
    temporary.remove_stale(tmp_path)
    assert not stale.exists()
    assert all(directory.exists() for directory in (living, *others))


def test_of_a_process_that_nobody_has_asked_about_since_it_ended_they_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        stale = directory_of(process.pid, tmp_path)
        temporary.remove_stale(tmp_path)
    assert not stale.exists()


def test_those_of_others_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: int) -> None:
    stale = directory_of(ended, tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: stale.stat().st_uid + 1)
    temporary.remove_stale(tmp_path)
    assert stale.exists()


def test_a_process_that_may_not_be_asked_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: int) -> None:
    def refuse(pid: int, signal: int) -> None:
        assert (pid, signal) == (ended, 0)
        raise PermissionError

    directory = directory_of(ended, tmp_path)
    monkeypatch.setattr(os, "kill", refuse)
    temporary.remove_stale(tmp_path)
    assert directory.exists()


def test_one_that_cannot_be_looked_at_keeps_no_other(tmp_path: Path, ended: int) -> None:
    """It may go while it is looked at."""
    gone = tmp_path / f"{temporary.PREFIX}{ended}-0"
    gone.symlink_to(tmp_path / "nothing")
    stale = directory_of(ended, tmp_path)
    temporary.remove_stale(tmp_path)
    assert not stale.exists()


class Writer:
    """Still writes into a directory when it is removed, so many times; the clock goes on as somebody waits."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.now = 100.0

    def rmtree(self, directory: Path, ignore_errors: bool) -> None:
        assert ignore_errors
        if self.times > 0:
            self.times -= 1
            (directory / "last").touch()
        else:
            shutil.rmtree(directory)

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.1
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(("times", "there"), [(0, False), (3, False), (10**9, True)])
def test_who_still_writes_there_is_waited_for(
    times: int, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(times)
    directory = directory_of(1, tmp_path)
    monkeypatch.setattr(temporary, "shutil", writer)
    monkeypatch.setattr(temporary, "time", writer)
    temporary.remove(directory)
    assert directory.exists() == there
    if there:
        assert writer.now == pytest.approx(103, abs=0.1)
