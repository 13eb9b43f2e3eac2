"""The preStop hook: drain, then wait for what runs here to have moved, and never longer than it was given."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import NodeID
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.util import get_node_ip_address

from deployments.command import drain as hook_module
from deployments.command.drain import RayCluster, drain, local_replicas


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
    before = time.time()
    assert run(clock, cluster, gone_at=42.0) == "drained"
    assert 42.0 <= clock() < 44.0
    (deadline_ms,) = cluster.deadlines
    assert (before + 100.0) * 1000 - 1 <= deadline_ms <= (time.time() + 100.0) * 1000, "the cluster's is the hook's"


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


@pytest.mark.parametrize(("lost_s", "ends_at"), [(29.5, 40.0), (30.0, 41.0), (30.5, 41.0)])
def test_a_cluster_is_given_up_when_it_has_not_answered_for_longer(lost_s: float, ends_at: float) -> None:
    """It answers last after ten seconds; looks are a second apart."""
    clock = Clock()
    cluster = FakeCluster(clock, answers_until=10.5)
    said = drain(cluster, lambda: 1, 100.0, clock, clock.sleep, lost_s)
    assert said == "the cluster has gone"
    assert clock() == ends_at


def test_replicas_that_are_there_to_the_end_are_told_of_with_the_time() -> None:
    clock = Clock()
    assert run(clock, FakeCluster(clock), gone_at=1e9, seconds=7.5) == "after 7.5 s there are still replicas here"
    assert clock() == 8.0
    assert run(Clock(), FakeCluster(clock), gone_at=1e9, seconds=0.0) == "after 0 s there are still replicas here"


class FakeRay:
    """What `RayCluster` asks of Ray's client. nodes: their ids, with whether they live, and their addresses."""

    def __init__(self, nodes: dict[str, tuple[bool, str]], refusal: str = "") -> None:
        self.drained: list[tuple[str, int]] = []
        self.away = False
        self._nodes = nodes
        self._refusal = refusal

    def get_all_node_info(self, timeout: float) -> dict[NodeID, SimpleNamespace]:
        if self.away:
            raise TimeoutError
        states = {True: GcsNodeInfo.ALIVE, False: GcsNodeInfo.DEAD}
        return {
            NodeID.from_hex(id): SimpleNamespace(state=states[alive], node_manager_address=address)
            for id, (alive, address) in self._nodes.items()
        }

    def drain_node(self, node_id: str, reason: int, message: str, deadline_ms: int) -> tuple[bool, str]:
        assert (reason, message) == (DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "the pod is being deleted")
        self.drained.append((node_id, deadline_ms))
        return not self._refusal, self._refusal


DEAD, OTHER, THIS = (digit * 56 for digit in "abc")


def test_the_node_that_is_drained_is_the_living_one_at_this_address() -> None:
    here = get_node_ip_address()
    ray = FakeRay({DEAD: (False, here), OTHER: (True, "192.0.2.1"), THIS: (True, here)})
    cluster = RayCluster()
    cluster._client = ray
    cluster.drain(7)
    assert ray.drained == [(THIS, 7)]
    assert cluster.answers()
    ray.away = True
    assert not cluster.answers()


def test_a_node_that_is_named_is_drained_and_one_that_nobody_knows_is_an_error() -> None:
    ray = FakeRay({DEAD: (False, get_node_ip_address())})
    named, unnamed = RayCluster(OTHER), RayCluster()
    named._client = unnamed._client = ray
    named.drain(7)
    assert ray.drained == [(OTHER, 7)]
    with pytest.raises(RuntimeError, match="no living Ray node has the address"):
        unnamed.drain(7)


def test_a_refused_drain_says_why() -> None:
    cluster = RayCluster(THIS)
    cluster._client = FakeRay({}, refusal="it is the head")
    with pytest.raises(RuntimeError, match="it is the head"):
        cluster.drain(7)


def test_replicas_are_counted_by_their_processes_names(tmp_path: Path) -> None:
    for pid, name in {1: b"raylet\0", 2: b"ray::ServeReplica:starcoder:engine\0", 3: b"ray::RankProcess.run\0"}.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(name)
    (tmp_path / "self").mkdir()
    assert local_replicas(tmp_path) == 1
    (tmp_path / "4" / "cmdline").mkdir(parents=True)  # one that ends while it is looked at cannot be read either
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "cmdline").write_bytes(b"ray::ServeReplica:starcoder:ingress\0")
    assert local_replicas(tmp_path) == 2


def hook(replicas: int, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command, in a pod with so many replicas whose cluster has gone."""
    here = f"command.local_replicas = lambda: {replicas}"
    run = 'code = command.main(["--seconds", "60"]); print("ray" in sys.modules); sys.exit(code)'
    return subprocess.run(
        [sys.executable, "-c", f"import sys\nfrom deployments.command import drain as command\n{here}\n{run}"],
        env={
            "PATH": "/usr/bin:/bin",
            "RAY_ADDRESS": "127.0.0.1:9",
            "RAY_TMPDIR": "/nonexistent",
            "HOME": "/tmp",
            **environment,
        },
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_in_a_pod_without_replicas_the_hook_ends_without_looking_for_the_cluster() -> None:
    """Ray would look for it for 40 s, by which the pod's end came later."""
    result = hook(0)
    assert (result.returncode, result.stdout) == (0, "drain: nothing of Serve runs here\nFalse\n")


def test_where_the_cluster_has_gone_the_hook_says_so_once_ray_gives_up() -> None:
    shorter = {
        "RAY_gcs_rpc_server_connect_timeout_s": "1",  # Ray waits for two of these,
        "RAY_py_gcs_connect_timeout_s": "1",  # and then for this
    }
    result = hook(1, **shorter)
    assert result.returncode == 0
    assert "drain: the cluster did not take the request: Timed out" in result.stdout


def test_where_no_cluster_was_ever_the_hook_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray ends the process then."""

    def ends(address: str | None) -> str:
        sys.exit("no Ray runs here")

    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address_or_die", ends)
    said = drain(RayCluster(), lambda: 1, 60)
    assert said == "the cluster did not take the request: there is no cluster here: no Ray runs here"


@pytest.mark.parametrize(("more", "node"), [([], None), (["--node-id", "abc"], "abc")])
def test_the_hook_is_told_how_long_and_which_node(
    more: list[str], node: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(hook_module, "RayCluster", lambda node_id: f"cluster of {node_id}")
    monkeypatch.setattr(hook_module, "drain", lambda *given: asked.append(given) or "drained")
    assert hook_module.main(["--seconds", "7.5", *more]) == 0
    assert asked == [(f"cluster of {node}", local_replicas, 7.5)]
    assert capsys.readouterr().out == "drain: drained\n"
    with pytest.raises(SystemExit):
        hook_module.main(more)
