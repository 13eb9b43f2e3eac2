"""Ports for programs that cannot be told to take any that is free and say which."""

from __future__ import annotations

import itertools
import os
import socket

_FIRST, _COUNT = 20_000, 12_000
"""Below those that Linux hands out by itself (32768 and up), so that nobody gets one between our look and its use."""

_numbers = itertools.count(os.getpid() * 61)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on. Never the same twice in a process."""
    for number in itertools.islice(_numbers, _COUNT):
        port = _FIRST + number % _COUNT
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise RuntimeError("no port is free")
