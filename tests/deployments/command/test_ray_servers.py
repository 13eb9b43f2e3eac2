"""Ray's servers have half a minute to start, which a busy machine may need more of."""

from __future__ import annotations

import subprocess

import pytest

from deployments.command.ray_servers import STARTS, start_node

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
