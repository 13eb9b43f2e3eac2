"""The preStop hook: drain, then wait for what runs here to have moved, and never longer than it was given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deployments.command.drain import drain, local_replicas


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeCluster:
    """answers_until: when its head goes."""

    def __init__(self, clock: Clock, answers_until: float = 1e9, error: Exception | None = None) -> None:
        self.deadlines: list[int] = []
        self._clock = clock
        self._answers_until = answers_until
        self._error = error

    def drain(self, deadline_ms: int) -> None:
        if self._error is not None:
            raise self._error
        self.deadlines.append(deadline_ms)

    def answers(self) -> bool:
        return self._clock() < self._answers_until


def run(clock: Clock, cluster: FakeCluster, gone_at: float, seconds: float = 100.0) -> str:
    return drain(cluster, lambda: int(clock() < gone_at), seconds, clock, clock.sleep, lost_s=30.0)


def test_waits_until_the_replicas_have_moved() -> None:
    clock = Clock()
    cluster = FakeCluster(clock)
    assert run(clock, cluster, gone_at=42.0) == "drained"
    assert 42.0 <= clock() < 44.0
    assert len(cluster.deadlines) == 1


def test_a_pod_without_replicas_drains_nothing() -> None:
    clock = Clock()
    cluster = FakeCluster(clock)
    assert "nothing" in run(clock, cluster, gone_at=0.0)
    assert cluster.deadlines == []
    assert clock() == 0.0


def test_ends_at_the_deadline() -> None:
    clock = Clock()
    assert "still replicas" in run(clock, FakeCluster(clock), gone_at=1e9)
    assert 100.0 <= clock() < 102.0


def test_a_cluster_that_is_deleted_as_a_whole_is_not_waited_for() -> None:
    """After an upgrade the old head goes first: nobody is left who would move the replicas."""
    clock = Clock()
    assert "gone" in run(clock, FakeCluster(clock, answers_until=10.0), gone_at=1e9)
    assert clock() < 45.0


def test_a_head_that_comes_back_is_waited_for() -> None:
    class Flaky(FakeCluster):
        def answers(self) -> bool:
            return not 10.0 <= self._clock() < 35.0

    clock = Clock()
    assert run(clock, Flaky(clock), gone_at=60.0) == "drained"


@pytest.mark.parametrize("error", [ConnectionError("no head"), RuntimeError("refused")])
def test_a_refused_drain_does_not_hold_the_pod(error: Exception) -> None:
    clock = Clock()
    assert str(error) in run(clock, FakeCluster(clock, error=error), gone_at=1e9)
    assert clock() == 0.0


def test_replicas_are_counted_by_their_processes_names(tmp_path: Path) -> None:
    for pid, name in {1: b"raylet\0", 2: b"ray::ServeReplica:starcoder:engine\0", 3: b"ray::RankProcess.run\0"}.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(name)
    (tmp_path / "self").mkdir()
    assert local_replicas(tmp_path) == 1


def test_without_a_cluster_the_hook_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "deployments.command.drain", "--seconds", "60"],
        env={
            "PATH": "/usr/bin:/bin",
            "RAY_ADDRESS": "127.0.0.1:9",
            "RAY_TMPDIR": "/nonexistent",
            "HOME": "/tmp",
            "RAY_gcs_rpc_server_connect_timeout_s": "1",  # Ray waits for two of these,
            "RAY_py_gcs_connect_timeout_s": "1",  # and then for this
        },
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0
