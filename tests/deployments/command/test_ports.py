"""A port that is given is given once, by whichever process of this machine."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from deployments.command import front, ports
from deployments.settings import Settings
from model.config import ConfigError

linux = pytest.mark.skipif(sys.platform != "linux", reason="ports are claimed on Linux only")


def only(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    monkeypatch.setattr(ports, "FREE_PORTS", list(numbers))


def test_a_port_that_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        only(monkeypatch, taken.getsockname()[1])
        with pytest.raises(ConfigError, match="no port is free"):
            ports.free_port()


@linux
def test_a_port_is_given_once_though_nobody_listens_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = {ports.free_port(), ports.free_port()}
    only(monkeypatch, *pair)
    with pytest.raises(ConfigError, match="no port is free"):
        ports.free_port()


@linux
def test_a_port_that_another_process_was_given_is_free_when_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = "import sys; from deployments.command import ports; print(ports.free_port(), flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", ask], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        only(monkeypatch, port)
        with pytest.raises(ConfigError, match="no port is free"):
            ports.free_port()
        other.communicate()
    assert ports.free_port() == port


@linux
@pytest.mark.skipif(front.haproxy_command(Settings()) is None, reason="HAProxy is not installed")
def test_what_hides_behind_haproxy_takes_no_port_that_the_server_is_to_have(monkeypatch, tmp_path) -> None:
    """Nobody listens at them while it looks."""
    port, metrics_port, third = (ports.free_port() for _ in range(3))
    for claimed in ports._claims[-3:]:
        claimed.close()
    del ports._claims[-3:]
    only(monkeypatch, port, metrics_port, third)
    found = front.local_front(Settings(port=port, metrics_port=metrics_port), tmp_path)
    assert str(third) in found.values()
