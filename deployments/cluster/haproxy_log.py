"""What HAProxy tells of connections that came to no request: heard by one ingress process of its node."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path

from deployments.cluster.haproxy import LOG_FORMAT, LOG_SOCKET, TLS

Note = Callable[[str, str | None], None]
"""Of a reason, one of `monitoring.labels.CONNECTION_REFUSALS`, and the client's address."""

RETRY_S = 2.0
_MOST_BYTES = 4096
_REASONS = {TLS: "tls_handshake", "400": "invalid_http", "408": "request_timeout", "503": "too_many_connections"}


class HaproxyLog:
    """Hears HAProxy where no other process does, or as soon as that one has ended.

    directory: of HAProxy's files on this node. note: called for each refused connection, in the event loop that
    `listen` was called in. What nobody hears is lost.
    """

    def __init__(self, directory: Path, note: Note) -> None:
        self._directory = directory
        self._note = note
        self._lock: int | None = None
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    def listen(self) -> bool:
        """Try, now and every RETRY_S. True where this process is the one that hears it, from now on."""
        loop = asyncio.get_running_loop()
        self._timer = None
        if self._socket is None and not self._take():
            self._timer = loop.call_later(RETRY_S, self.listen)
            return False
        assert self._socket is not None
        loop.add_reader(self._socket.fileno(), self._hear)
        return True

    def close(self) -> None:
        """Leave it to another process."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
        if self._lock is not None:
            os.close(self._lock)
        self._timer = self._socket = self._lock = None

    def _take(self) -> bool:
        """Bind the socket, whose last owner has ended: a lock ends with the process that has it."""
        path = self._directory / LOG_SOCKET
        try:
            lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:  # HAProxy is not there yet
            return False
        own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            own.bind(str(path))
        except OSError:
            own.close()
            os.close(lock)
            return False
        self._lock, self._socket = lock, own
        return True

    def _hear(self) -> None:
        assert self._socket is not None
        while True:
            try:
                line = self._socket.recv(_MOST_BYTES)
            except OSError:
                return
            if (found := refusal(line.decode("latin-1"))) is not None:
                self._note(*found)


def refusal(line: str) -> tuple[str, str] | None:
    """The reason and the client's address of a line as LOG_FORMAT says; None where it tells of something else."""
    fields = line.split()
    if len(fields) != len(LOG_FORMAT.split()) or fields[1] not in _REASONS:
        return None
    return _REASONS[fields[1]], fields[0]
