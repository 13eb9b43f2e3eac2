"""Ray's servers have half a minute to start, which a busy machine may need more of."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import ray
from ray._private import worker

from deployments.command import ray_servers
from deployments.command.ray_servers import STARTS, dead_servers, end_streams, shut_down, start_node

SLOW = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


class Node:
    """Starts a process each time, and is too slow the first times."""

    def __init__(self, slow: int, error: str = SLOW) -> None:
        self._slow, self._error = slow, error
        self.servers: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        self.servers.append(subprocess.Popen(["sleep", "1000"]))
        if len(self.servers) <= self._slow:
            raise Exception(self._error)

    def living(self) -> list[bool]:
        """Of each try, oldest first. Those before the last are waited for."""
        for server in self.servers[:-1]:
            server.wait(60)
        return [server.poll() is None for server in self.servers]

    def end(self) -> None:
        for server in self.servers:
            server.kill()
            server.wait()


def test_a_slow_start_is_tried_again_and_what_it_had_started_ends() -> None:
    node = Node(slow=2)
    other = subprocess.Popen(["sleep", "1000"])
    try:
        start_node(node.begin)
        assert node.living() == [False, False, True]
        assert other.poll() is None, "it was there before"
    finally:
        node.end()
        other.kill()
        other.wait()


@pytest.mark.parametrize(("error", "tries"), [(SLOW, STARTS), ("ray is not installed", 1)])
def test_it_does_not_try_for_ever_nor_after_another_error(error: str, tries: int) -> None:
    node = Node(slow=99, error=error)
    try:
        with pytest.raises(Exception, match=error[:20]):
            start_node(node.begin)
        assert len(node.servers) == tries
    finally:
        node.end()


def test_of_rays_servers_those_are_told_without_which_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = ["log_monitor", "raylet", "monitor", "gcs_server"]
    node = SimpleNamespace(dead_processes=lambda: [(name, None) for name in dead])
    monkeypatch.setattr(worker, "_global_node", node)
    assert dead_servers() == ["raylet", "gcs_server"]
    monkeypatch.setattr(worker, "_global_node", None)
    assert dead_servers() == []
    monkeypatch.delitem(sys.modules, "ray")
    assert dead_servers() == []


def test_with_the_raylet_its_ingresses_end_and_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {1: "ray::ServeReplica:starcoder:ingress", 2: "ray::ProxyActor"}
    asked = []

    def kill_raylet(check_alive: bool) -> None:
        asked.append(check_alive)
        raise ProcessLookupError("it has ended by itself")

    monkeypatch.setattr(worker, "_global_node", SimpleNamespace(kill_raylet=kill_raylet))
    monkeypatch.setattr(ray_servers, "descendants", lambda: list(lines))
    monkeypatch.setattr(ray_servers, "command_line", lines.get)
    monkeypatch.setattr(ray_servers, "time", SimpleNamespace(sleep=lambda seconds: lines.pop(1)))
    end_streams()
    assert asked == [False]
    assert lines == {2: "ray::ProxyActor"}


def test_without_a_node_there_is_nothing_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_global_node", None)
    end_streams()


def test_ray_that_was_loaded_is_shut_down_whatever_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []

    def shutdown() -> None:
        ends.append(1)
        raise RuntimeError("it was never there")

    monkeypatch.setattr(ray, "shutdown", shutdown)
    shut_down()
    assert ends == [1]
    monkeypatch.delitem(sys.modules, "ray")
    shut_down()
    assert ends == [1]
