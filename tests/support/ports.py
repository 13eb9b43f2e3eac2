"""Ports for programs that cannot be told to take any that is free and say which."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys

_FIRST, _COUNT = 20_000, 12_000
"""Below those that Linux hands out by itself (32768 and up), so that nobody gets one between our look and its use."""

_numbers = itertools.count(os.getpid() * 61)
_ours: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on. Never the same twice, in this process and those that live with it."""
    for number in itertools.islice(_numbers, _COUNT):
        port = _FIRST + number % _COUNT
        with contextlib.suppress(OSError):
            _claim(port)
            socket.create_server(("127.0.0.1", port)).close()
            return port
    raise RuntimeError("no port is free")


def _claim(port: int) -> None:
    """Until this process ends: whoever is given a port may be long in starting. Raises OSError where another has it."""
    if sys.platform == "linux":
        claim = socket.socket(socket.AF_UNIX)
        claim.bind(f"\0starcoder-tests-port-{port}")  # abstract: no file, gone with whoever holds it
        _ours.append(claim)
