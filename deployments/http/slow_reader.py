"""Clients that ask, and then do not take the answer: how long it waits for them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

LEAST_TAKEN_BYTES = 16_384
"""What a client must take in each `write_timeout_s` while more waits for it; in 60 s that is 270 bytes a second."""

_ACKNOWLEDGED = struct.Struct("Q")
_ACKNOWLEDGED_AT = 120  # `tcpi_bytes_acked` in Linux's `struct tcp_info`, since 4.1
_TCP_INFO = getattr(socket, "TCP_INFO", None)


class ReaderWatch:
    """Looks whether the client takes what waits for it, from `begin` to `end`; calls `on_slow` once where it does not.

    A kernel takes megabytes off our hands and says for minutes nothing of where they are. So what counts is what the
    client's machine has acknowledged, where that is known, and else what has left our own buffer.
    """

    def __init__(self, transport: asyncio.Transport, timeout_s: float, on_slow: Callable[[], None]) -> None:
        self._transport = transport
        self._timeout_s = timeout_s
        self._on_slow = on_slow
        self._timer: asyncio.TimerHandle | None = None
        self._taken = 0

    def begin(self) -> None:
        """Something waits; nothing new if it is being looked at already."""
        if self._timer is None:
            self._taken = taken_bytes(self._transport)
            self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._look)

    def end(self) -> None:
        """Nothing waits any more, or not much."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if taken_bytes(self._transport) - self._taken < LEAST_TAKEN_BYTES:
            self._on_slow()
        else:
            self.begin()


def taken_bytes(transport: asyncio.Transport) -> int:
    """Grows by what the client takes, as long as nothing is written."""
    own = transport.get_extra_info("socket")
    if _TCP_INFO is not None and own is not None and own.family in (socket.AF_INET, socket.AF_INET6):
        try:
            info = own.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ACKNOWLEDGED_AT + _ACKNOWLEDGED.size)
        except OSError:  # it is closed
            info = b""
        if len(info) == _ACKNOWLEDGED_AT + _ACKNOWLEDGED.size:
            return int(_ACKNOWLEDGED.unpack_from(info, _ACKNOWLEDGED_AT)[0])
    return -transport.get_write_buffer_size()
