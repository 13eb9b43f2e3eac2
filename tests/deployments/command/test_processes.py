"""Processes below this one: found, ended, and asked how they ended."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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


def below(root: Path) -> Callable[..., Path]:
    """`Path`, of a machine whose files are there."""
    return lambda path: root / path.lstrip("/")


def test_only_what_lives_below_is_found_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = {
        10: "10 (starcoder) S 1 10",
        11: "11 (a ) S 99 b) R 10 10",
        12: "12 (ended) Z 10 10",
        13: "13 (dead) X 10 10",
        14: "14 (of one that ended) D 12 10",
        15: "15 (deeper) S 11 10",
        16: "16 (another) S 1 10",
        17: "17 (cut short) S",
        18: "18 (no number) S x 10",
        19: "",
    }
    for pid, stat in stats.items():
        (tmp_path / "proc" / str(pid)).mkdir(parents=True)
        (tmp_path / "proc" / str(pid) / "stat").write_text(stat)
    (tmp_path / "proc" / "20" / "stat").mkdir(parents=True)  # cannot be read, as one that has ended meanwhile
    (tmp_path / "proc" / "self").mkdir()
    (tmp_path / "proc" / "self" / "stat").write_text(stats[16])
    monkeypatch.setattr(processes, "Path", below(tmp_path))
    assert sorted(descendants(10)) == [11, 14, 15]
    assert descendants(11) == [15]
    assert descendants(15) == descendants(99) == []
    monkeypatch.setattr(processes, "os", SimpleNamespace(getpid=lambda: 11))
    assert descendants() == [15]


def test_a_command_line_is_shown_in_one_line_whatever_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "Path", below(tmp_path))
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cmdline").write_bytes(b"na\xefve\0--x\0")
    assert command_line(7) == "na\N{REPLACEMENT CHARACTER}ve --x "
    assert command_line(8) == ""


def test_a_signal_reaches_those_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, signal.Signals]] = []

    def kill(pid: int, number: signal.Signals) -> None:
        sent.append((pid, number))
        if pid in (1, 2):
            raise ProcessLookupError if pid == 1 else PermissionError

    monkeypatch.setattr(processes, "os", SimpleNamespace(kill=kill))
    kill_all([1, 2, 3])
    assert sent == [(1, signal.SIGKILL), (2, signal.SIGKILL), (3, signal.SIGKILL)]


@pytest.mark.parametrize("ends_after", [0, 2, 99])
def test_processes_are_waited_for_and_reaped_before_each_look_and_at_the_end(
    ends_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []
    now = [50.0]

    def look() -> list[int]:
        did.append("look")
        return [] if did.count("look") > ends_after else [7]

    def sleep(seconds: float) -> None:
        assert seconds == 0.05
        now[0] += 0.25

    monkeypatch.setattr(processes, "descendants", look)
    monkeypatch.setattr(processes, "_reap", lambda: did.append("reap"))
    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    assert processes._wait_gone(1.0) == ([7] if ends_after == 99 else [])
    looks = 6 if ends_after == 99 else ends_after + 1
    assert did == ["reap", "look"] * looks + ["reap"]


def test_a_killed_process_has_its_time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(processes, "descendants", lambda: [7])
    monkeypatch.setattr(processes, "_signal", lambda *_: None)
    monkeypatch.setattr(processes, "_wait_gone", lambda seconds: waited.append(seconds) or [7])
    assert end_descendants() == [7]
    assert waited == [3.0, processes.KILLED_S]
