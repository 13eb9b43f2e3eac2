"""What a drill does to processes, files and ports, and that it is undone."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.drill import harm, switch
from benchmarks.drill.clients import Load
from deployments.command.ports import free_port
from tests.support.drilled import FakePrometheus, FakeStand, FakeTime
from tests.support.processes import is_gone
from tests.support.waiting import wait_until

STOPPED = "T"


@pytest.fixture
def victims() -> Iterator[list[subprocess.Popen[bytes]]]:
    started = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def stand(tmp_path: Path, victims: list[subprocess.Popen[bytes]]) -> FakeStand:
    checkpoint = tmp_path / "pico"
    checkpoint.mkdir()
    pids = [process.pid for process in victims]
    return FakeStand(
        FakePrometheus(FakeTime()), tmp_path, checkpoint, processes={harm.ENGINE: pids, harm.EXPORTER: pids[:1]}
    )


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_one_is_killed(stand: FakeStand, victims: list[subprocess.Popen[bytes]]) -> None:
    with harm.killed(harm.ENGINE)(stand):
        assert victims[0].wait(60) == -signal.SIGKILL
        assert not is_gone(victims[1].pid)


def test_nothing_of_that_kind_is_there(stand: FakeStand) -> None:
    with pytest.raises(RuntimeError, match="has no process"), harm.killed(harm.INGRESS)(stand):
        pass


def test_all_hang_and_so_do_their_successors(stand: FakeStand) -> None:
    """Until it is over, whatever ends it."""
    first, second = stand.processes[harm.ENGINE]
    stand.processes[harm.ENGINE] = [first]
    with contextlib.suppress(KeyboardInterrupt), harm.hung(harm.ENGINE)(stand):
        wait_until(lambda: state(first) == STOPPED)
        assert state(second) != STOPPED
        stand.processes[harm.ENGINE] = [first, second]
        wait_until(lambda: state(second) == STOPPED)
        raise KeyboardInterrupt
    wait_until(lambda: STOPPED not in (state(first), state(second)))


def test_an_engine_is_lost_with_its_checkpoint(stand: FakeStand, victims: list[subprocess.Popen[bytes]]) -> None:
    with harm.lost_for_good(stand):
        assert victims[0].wait(60) == -signal.SIGKILL
        assert not stand.checkpoint.exists()
    assert stand.checkpoint.is_dir()


def test_the_exporters_port_is_taken_and_given_back(stand: FakeStand, victims: list[subprocess.Popen[bytes]]) -> None:
    stand.metrics_port = free_port()
    with harm.without_exporter(stand):
        assert victims[0].wait(60) == -signal.SIGKILL
        with pytest.raises(OSError, match="in use"), contextlib.closing(socket.socket()) as other:
            other.bind(("127.0.0.1", stand.metrics_port))
    with contextlib.closing(socket.socket()) as other:
        other.bind(("127.0.0.1", stand.metrics_port))


def test_the_router_goes_astray_while_a_file_is_there(stand: FakeStand, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in switch.environment(stand.home).items():
        monkeypatch.setenv(name, value)
    assert not switch.is_on("router")
    with harm.stray_router(stand):
        assert switch.is_on("router")
        assert not switch.is_on("drafts")
    assert not switch.is_on("router")


def test_drafts_are_stubborn_while_the_clients_are_there(stand: FakeStand, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in switch.environment(stand.home).items():
        monkeypatch.setenv(name, value)
    load = Load("misleading", streams=3)
    with harm.stubborn_drafts(load)(stand):
        assert stand.loads == [load]
        assert switch.is_on("drafts")
    assert not stand.loads
    assert not switch.is_on("drafts")


def test_clients_come_and_go(stand: FakeStand) -> None:
    load = Load("noise", streams=3)
    with harm.clients(load)(stand):
        assert stand.loads == [load]
    assert not stand.loads
