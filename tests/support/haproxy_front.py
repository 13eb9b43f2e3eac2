"""HAProxy in front of one server in Python, as Ray starts it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.cluster.haproxy_log import refusal

Rendered = Callable[..., str]
"""What Ray writes, by address, ports, and whether it counts requests."""


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """What `x-say` says, or with `x-show` what the field says that it names."""
    headers = Headers(scope=scope)
    said = headers.get(headers.get("x-show", "x-say"), "answer")
    await Response(said)(scope, receive, send)


class Running:
    def __init__(self, process: subprocess.Popen[bytes], port: int, log: socket.socket, scheme: str) -> None:
        self.process = process
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.log = log
        self._told: list[tuple[str, str]] = []

    def refused(self) -> list[tuple[str, str]]:
        """Why it has refused whom so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                if (found := refusal(self.log.recv(4096).decode())) is not None:
                    self._told.append(found)
        return self._told

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


Front = Callable[..., Running]
"""Starts it in front of the ingress at a port."""
