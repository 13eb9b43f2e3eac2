"""What HAProxy has to do is told apart from connections that clients only keep, also in processes it has replaced."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.cluster import haproxy
from deployments.cluster.haproxy_admin import requests, unsent_bytes
from tests.support.haproxy_front import Front, Running
from tests.support.http_server import serving
from tests.support.waiting import wait_until

GET = b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n"
LARGE = 16 << 20
"""Bytes: more than the kernel and HAProxy keep of an answer."""


class Ingress:
    """Answers `/held` when it may, with more than its client has room for."""

    def __init__(self) -> None:
        self.may = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def body() -> AsyncIterator[bytes]:
            if scope["path"] != "/held":
                yield b"x"
                return
            await asyncio.to_thread(self.may.wait)
            for _ in range(LARGE >> 16):
                yield bytes(1 << 16)

        await StreamingResponse(body())(scope, receive, send)


@pytest.fixture
def ingress() -> Ingress:
    return Ingress()


@pytest.fixture
def running(front: Front, ingress: Ingress) -> Iterator[Running]:
    with serving(ingress) as url:
        try:
            yield front(int(url.rpartition(":")[2]))
        finally:
            ingress.may.set()


def test_whoever_only_keeps_a_connection_asks_for_nothing(running: Running, ingress: Ingress, tmp_path: Path) -> None:
    admin, pid = tmp_path / "a", running.process.pid
    with running.connect() as idle, running.connect() as asking:
        idle.sendall(GET % b"x")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: requests(admin) == 0)
        asking.sendall(GET % b"held")
        wait_until(lambda: (requests(admin), unsent_bytes([pid])) == (1, 0))  # what it asks is on its way for a moment
        ingress.may.set()
        wait_until(lambda: unsent_bytes([pid]) > 0)
        read_all(asking)
        wait_until(lambda: (requests(admin), unsent_bytes([pid])) == (0, 0))


def test_what_an_older_process_has_to_write_is_known(running: Running, ingress: Ingress, tmp_path: Path) -> None:
    """As long as one client keeps a connection, it lives on."""
    admin, old = tmp_path / "a", running.process
    command = haproxy.installed()
    assert command is not None
    with running.connect() as idle, running.connect() as asking:
        idle.sendall(GET % b"x")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")
        asking.sendall(GET % b"held")
        wait_until(lambda: requests(admin) == 1)
        replacing = [command, "-db", "-f", str(tmp_path / "c"), "-x", str(admin), "-sf", str(old.pid)]
        new = subprocess.Popen(replacing, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: requests(admin) == 0, "the new one does not answer")
            ingress.may.set()
            wait_until(lambda: unsent_bytes([old.pid, new.pid]) > 0)
            assert unsent_bytes([new.pid]) == 0
            read_all(asking)
            wait_until(lambda: unsent_bytes([old.pid, new.pid]) == 0)
            assert old.poll() is None
        finally:
            new.kill()
            new.wait()


def test_of_a_process_that_has_ended_there_is_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert unsent_bytes([process.pid]) == 0


def read_all(connection: socket.socket) -> None:
    received = 0
    while received < LARGE:
        piece = connection.recv(1 << 20)
        assert piece
        received += len(piece)
