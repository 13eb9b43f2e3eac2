"""A port that is given is given once, by whichever process of this machine."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

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


class Sockets:
    """`socket`, where some ports are taken. bound: as families and addresses; open: which are not closed."""

    AF_INET, AF_INET6, AF_UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX

    def __init__(self, *taken: int) -> None:
        self.taken = taken
        self.bound: list[tuple[int, object]] = []
        self.open: list[object] = []

    def socket(self, family: int) -> Any:
        made = SimpleNamespace(bind=lambda address: self._bind(family, address), close=lambda: self.open.remove(made))
        self.open.append(made)
        return contextlib.nullcontext(made) if family != self.AF_UNIX else made

    def _bind(self, family: int, address: object) -> None:
        self.bound.append((family, address))
        if isinstance(address, tuple) and address[1] in self.taken:
            raise OSError("it is taken")
        if isinstance(address, str) and any(str(port) in address for port in self.taken):
            raise OSError("it is claimed")


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
@pytest.mark.parametrize("first", [0, 1, 3])
def test_every_port_is_looked_at_from_one_that_is_drawn(
    host: str, family: int, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    only(monkeypatch, 5, 6, 7, 8)
    sockets = Sockets(5, 6, 7, 8)
    monkeypatch.setattr(ports, "socket", sockets)
    monkeypatch.setattr(ports, "_by_chance", SimpleNamespace(randrange=lambda count: drawn.append(count) or first))
    with pytest.raises(ConfigError, match=rf"^no port is free at {host}$"):
        ports.free_port(host)
    assert sockets.bound == [(family, (host, 5 + (first + port) % 4)) for port in range(4)]
    assert drawn == [4]


def test_a_claim_is_held_and_a_claim_of_what_is_claimed_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "socket", sockets := Sockets(6))
    monkeypatch.setattr(ports, "_claims", claims := [])
    monkeypatch.setattr(ports, "sys", SimpleNamespace(platform="linux"))
    assert ports.claim(5)
    assert not ports.claim(6)
    assert claims == sockets.open
    assert len(claims) == 1
    assert all(address[:1] == "\0" for _, address in sockets.bound), "no file"
    monkeypatch.setattr(ports, "sys", SimpleNamespace(platform="darwin"))
    assert ports.claim(6), "there nobody claims any"
    assert len(claims) == 1
