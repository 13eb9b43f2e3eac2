"""Over real sockets, with the protocol that Serve's proxy gets: heads without end, clients that take their time."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import time
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from deployments.http.connection import GuardedProtocol
from deployments.ingress import create_app
from deployments.limits import ApiLimits
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import FakeBackend
from tests.support.http_server import serving
from tests.support.stage import Stage
from tests.support.waiting import PATIENCE_S

LIMITS = ApiLimits(max_head_bytes=16_384, head_timeout_s=0.6, keep_alive_timeout_s=1, body_timeout_s=0.3)
GET = b"GET /version HTTP/1.1\r\nhost: x\r\n"


class Hurried(GuardedProtocol):
    limits = LIMITS


@pytest.fixture(scope="module")
def hurried(stage: Stage, tokenizer: Tokenizer) -> Iterator[str]:
    with serving(create_app(backend=stage, tokenizer=tokenizer, limits=LIMITS), http=Hurried) as url:
        yield url


@pytest.fixture
def url(hurried: str, fake_backend: FakeBackend) -> str:
    return hurried


class Patient(GuardedProtocol):
    limits = LIMITS.model_copy(update={"head_timeout_s": 20, "body_timeout_s": 20})


@pytest.fixture(scope="module")
def patient(stage: Stage, tokenizer: Tokenizer) -> Iterator[str]:
    """A server for what is to be refused by its size, however long a busy machine takes to send it."""
    app = create_app(backend=stage, tokenizer=tokenizer, limits=Patient.limits)
    with serving(app, http=Patient) as url:
        yield url


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_S)


def read(connection: socket.socket) -> bytes:
    """Until the server closes."""
    found = b""
    try:
        while part := connection.recv(65_536):
            found += part
    except ConnectionResetError:
        pass
    return found


def flood(url: str, start: bytes, piece: bytes, pieces: int = 3000) -> bytes:
    """Send `start`, then `piece` over and over; what is answered."""
    with connect(url) as connection:
        connection.sendall(start)
        connection.settimeout(0.5)
        try:
            for _ in range(pieces):
                connection.sendall(piece)
        except OSError:
            pass
        connection.settimeout(PATIENCE_S)
        return read(connection)


def dripped(
    url: str, start: bytes, piece: bytes, every_s: float = 0.05, most_s: float = PATIENCE_S
) -> tuple[bytes, float]:
    """Send `piece` again and again, slowly; what is answered, and after how many seconds the server closes."""
    began = time.monotonic()
    with connect(url) as connection:
        connection.sendall(start)
        connection.settimeout(every_s)
        found = b""
        while time.monotonic() - began < most_s:
            try:
                connection.sendall(piece)
                part = connection.recv(65_536)
            except TimeoutError:
                continue
            except OSError:
                break
            if not part:
                break
            found += part
        return found, time.monotonic() - began


@pytest.mark.parametrize(
    ("start", "piece", "status", "code"),
    [
        (GET + b"x: ", b"a" * 10_000, 431, b"head_too_large"),
        (GET, b"a" * 10_000, 431, b"head_too_large"),
        (GET, b"x-a: b\r\n" * 1000, 431, b"head_too_large"),
        (b"GET /", b"a" * 10_000, 414, b"request_line_too_long"),
        (b"GET /?", b"a" * 10_000, 414, b"request_line_too_long"),
    ],
)
def test_a_head_without_end(patient: str, start: bytes, piece: bytes, status: int, code: bytes) -> None:
    """30 MB are on their way; the answer does not wait for them, and others do not wait at all."""
    url = patient
    began = time.monotonic()
    answer = flood(url, start, piece)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nconnection: close\r\n" in answer
    assert code in answer
    assert httpx.get(f"{url}/version", timeout=PATIENCE_S).status_code == 200
    assert time.monotonic() - began < Patient.limits.head_timeout_s


def test_a_head_that_is_too_large_in_one_piece(patient: str) -> None:
    url = patient
    with connect(url) as connection:
        connection.sendall(GET + b"x: " + b"a" * 20_000 + b"\r\n\r\n")
        assert read(connection).startswith(b"HTTP/1.1 431 ")
    response = httpx.get(f"{url}/version", headers={"x": "a" * 10_000})
    assert response.status_code == 200


@pytest.mark.parametrize("tail", [b"0\r\nx: ", b"1;x="])
def test_what_follows_the_head_without_end(url: str, fake_backend: FakeBackend, tail: bytes) -> None:
    """Trailers and chunk extensions are no body, so that no limit of bodies bounds them."""
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    flood(url, head + tail, b"a" * 10_000)
    assert httpx.get(f"{url}/version", timeout=PATIENCE_S).status_code == 200
    assert fake_backend.requests == []


@pytest.mark.parametrize(
    ("start", "piece", "answer"),
    [
        (GET, b"x: y\r\n", b"HTTP/1.1 408 "),
        (b"GET /", b"a", b"HTTP/1.1 408 "),
        (b"", b"\r\n", b""),
        (GET + b"\r\n", b"\r\n", b"HTTP/1.1 200 "),
        (GET + b"\r\n" + GET, b"x: y\r\n", b"HTTP/1.1 408 "),
    ],
)
def test_a_head_that_takes_its_time(url: str, start: bytes, piece: bytes, answer: bytes) -> None:
    found, seconds = dripped(url, start, piece)
    assert seconds < PATIENCE_S
    assert answer in found
    assert bool(found) == bool(answer)


def test_a_body_that_takes_its_time(url: str, fake_backend: FakeBackend) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    for start, piece in (
        (b"content-length: 100000\r\n\r\n", b" "),
        (b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ):
        found, seconds = dripped(url, head + start, piece)
        assert found.startswith(b"HTTP/1.1 408 ")
        assert seconds < PATIENCE_S
    assert fake_backend.requests == []


def test_a_connection_without_a_request(url: str) -> None:
    with connect(url) as connection:
        assert read(connection) == b""
    with connect(url) as connection:
        connection.sendall(GET + b"\r\n")
        assert read(connection).startswith(b"HTTP/1.1 200 ")


def test_two_hundred_slow_clients_are_gone_and_a_quick_one_is_served(url: str) -> None:
    slow = []
    for _ in range(200):
        slow.append(connect(url))
        slow[-1].sendall(GET)
    assert httpx.get(f"{url}/version", timeout=PATIENCE_S).status_code == 200
    for connection in slow:
        assert read(connection).startswith(b"HTTP/1.1 408 ")
        connection.close()


def status_of_next(answers: BinaryIO) -> int:
    """Of a whole answer: its body may come in a piece of its own."""
    _, status, _ = answers.readline().split(b" ", 2)
    answers.read(int(http.client.parse_headers(answers)["content-length"]))
    return int(status)


class Unhurried(GuardedProtocol):
    limits = LIMITS.model_copy(update={"head_timeout_s": 2, "keep_alive_timeout_s": 20})


def test_requests_on_one_connection(stage: Stage, tokenizer: Tokenizer) -> None:
    """In one piece, in many, and one behind the other."""
    app = create_app(backend=stage, tokenizer=tokenizer, limits=Unhurried.limits)
    with serving(app, http=Unhurried) as url, connect(url) as connection, connection.makefile("rb") as answers:
        connection.sendall((GET + b"\r\n") * 5)
        assert [status_of_next(answers) for _ in range(5)] == [200] * 5
        for _ in range(4):
            for byte in GET + b"\r\n":
                connection.sendall(bytes([byte]))
            assert status_of_next(answers) == 200


def test_what_is_no_http_is_refused_as_everything_else(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = read(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"invalid_http"' in answer


def test_a_body_is_not_kept_once_it_is_refused() -> None:
    """Serve's proxy reads ahead of the ingress, into a queue without a bound."""
    kept = 0

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal kept
        await send({"type": "http.response.start", "status": 413, "headers": [(b"connection", b"close")]})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while (message := await receive())["type"] != "http.disconnect":
                    kept += len(message["body"])
        await send({"type": "http.response.body", "body": b"too large"})

    with serving(refuse, http=Hurried) as url:
        start = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n"
        assert b"too large" in flood(url, start, b"a" * 10_000)
    assert kept < 1_000_000


def test_http_1_0_gets_no_chunks(url: str) -> None:
    body = b'{"prompt": "x", "max_tokens": 3, "stream": true}'
    head = f"POST /v1/completions HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with connect(url) as connection:
        connection.sendall(head.encode() + body)
        answer = read(connection)
    fields, _, text = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in fields.lower()
    assert b"connection: close" in fields.lower()
    assert text.startswith(b"data: {")
    assert text.endswith(b"data: [DONE]\n\n")
    with connect(url) as connection:
        connection.sendall(b"GET /version HTTP/1.0\r\n\r\n")
        assert read(connection).partition(b"\r\n\r\n")[2].startswith(b'{"version"')


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_no_answer_is_longer_than_it_says(version: bytes) -> None:
    """What came behind it would be read as another answer. Nothing of it is sent."""

    async def longer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"okHTTP/1.1 200 "})

    with serving(longer, http=Hurried) as url, connect(url) as connection:
        connection.sendall(b"GET / HTTP/" + version + b"\r\nhost: x\r\n\r\n")
        assert b"ok" not in read(connection)


def test_an_upgrade_is_a_request(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(GET + b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
