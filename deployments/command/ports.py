"""Ports for programs that cannot be told to take any that is free and say which."""

from __future__ import annotations

import contextlib
import random
import socket
import sys

from model.config import ConfigError

FREE_PORTS = range(20_000, 30_000)
"""Below those that the kernel gives to whoever asks for any, and those that Ray gives to ingress processes."""

_claims: list[socket.socket] = []
_by_chance = random.SystemRandom()


def free_port(host: str = "127.0.0.1") -> int:
    """One that nothing listens at now. Raises ConfigError where there is none.

    Whoever is given it may be long in starting: until this process ends, no other one is given it by this function
    (on Linux), nor this one again.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    first = _by_chance.randrange(len(FREE_PORTS))
    for port in (*FREE_PORTS[first:], *FREE_PORTS[:first]):
        with contextlib.suppress(OSError), socket.socket(family) as probe:
            probe.bind((host, port))
            if claim(port):
                return port
    raise ConfigError(f"no port is free at {host}")


def claim(port: int) -> bool:
    """Keep the port from being given by `free_port` while this process lives; False where it has been claimed."""
    if sys.platform != "linux":
        return True
    claimed = socket.socket(socket.AF_UNIX)
    try:
        claimed.bind(f"\0starcoder-port-{port}")  # abstract: no file, gone with whoever holds it
    except OSError:
        claimed.close()
        return False
    _claims.append(claimed)
    return True
