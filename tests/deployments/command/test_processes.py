"""Processes below this one: found, ended, and asked how they ended."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from deployments.command import processes
from deployments.command.processes import command_line, descendants, end_descendants, kill_all


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
def test_orphans_are_adopted_by_this_process_as_the_kernel_says() -> None:
    prctl, found = ctypes.CDLL(None).prctl, ctypes.c_int()
    set_subreaper, get_subreaper = 36, 37  # linux/prctl.h
    prctl(get_subreaper, ctypes.byref(found), 0, 0, 0)
    before = found.value
    prctl(set_subreaper, 0, 0, 0, 0)
    try:
        processes.adopt_orphans()
        prctl(get_subreaper, ctypes.byref(found), 0, 0, 0)
        assert found.value == 1
    finally:
        prctl(set_subreaper, before, 0, 0, 0)


def test_all_that_have_ended_are_asked_how(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever they are, and without waiting for those that live."""
    ended = [17, 18]
    asked: list[tuple[int, int]] = []

    def waitpid(pid: int, options: int) -> tuple[int, int]:
        asked.append((pid, options))
        if not ended:
            raise ChildProcessError
        return ended.pop(), 0

    monkeypatch.setattr(processes, "os", SimpleNamespace(waitpid=waitpid, WNOHANG=os.WNOHANG))
    processes._reap()
    assert asked == [(-1, os.WNOHANG)] * 3
    monkeypatch.setattr(processes.os, "waitpid", lambda *_: (0, 0))
    processes._reap()


@pytest.mark.parametrize(("stubborn", "killed"), [(0, []), (1, [2])])
def test_who_does_not_end_when_asked_is_killed(
    stubborn: int, killed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    living, sent, now = [1, 2], list[tuple[list[int], signal.Signals]](), [100.0]

    def send(pids: list[int], number: signal.Signals) -> None:
        sent.append((list(pids), number))
        living[:] = [] if number == signal.SIGKILL or not stubborn else [2]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(processes, "_signal", send)
    monkeypatch.setattr(processes, "_reap", lambda: None)
    monkeypatch.setattr(processes, "descendants", lambda: list(living))
    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    assert end_descendants(patience_s=2) == killed
    assert sent == [([1, 2], signal.SIGTERM), *([([2], signal.SIGKILL)] if killed else [])]
    assert now[0] == pytest.approx(102 if killed else 100, abs=0.2)


def test_a_process_is_found_until_it_has_ended() -> None:
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        assert sleeper.pid in descendants()
        assert command_line(sleeper.pid) == "sleep 1000 "
        kill_all([sleeper.pid, 2**22 + 1])
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
        assert sleeper.pid not in descendants()
        assert command_line(sleeper.pid) == ""
        assert descendants(sleeper.pid) == []
    assert sleeper.returncode == -signal.SIGKILL
