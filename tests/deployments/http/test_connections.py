"""Over real sockets: clients that go away, bodies that are too large, bodies that never come."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from deployments.ingress import create_app
from deployments.limits import ApiLimits
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import FakeBackend
from tests.support.http_server import serving
from tests.support.waiting import wait_until


@pytest.fixture
def stuck_backend(fake_backend: FakeBackend) -> FakeBackend:
    """Gives one token of each completion, then waits forever."""
    fake_backend.gate = asyncio.Event()
    return fake_backend


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=120)


def post(url: str, body: dict[str, object]) -> socket.socket:
    """A connection that has sent a whole request."""
    content = json.dumps(body).encode()
    head = [
        "POST /v1/completions HTTP/1.1",
        "host: test",
        "content-type: application/json",
        f"content-length: {len(content)}",
        "\r\n",
    ]
    connection = connect(url)
    connection.sendall("\r\n".join(head).encode() + content)
    return connection


def test_a_stream_whose_client_goes_away_is_closed(url: str, stuck_backend: FakeBackend) -> None:
    with httpx.Client() as client:
        body = {"prompt": "x", "stream": True, "max_tokens": 50}
        with client.stream("POST", f"{url}/v1/completions", json=body) as response:
            lines = response.iter_lines()  # kept: the connection is closed when it is collected
            assert next(lines).startswith("data: {")
            assert stuck_backend.closed == []
    wait_until(lambda: len(stuck_backend.closed) == 1, "the backend's generator is still open")


def test_a_head_is_an_answer_that_the_server_takes(url: str) -> None:
    """It compares the length of what is sent with what was asked, and would else break the connection."""
    with httpx.Client(base_url=url) as client:
        for _ in range(3):  # on one connection
            answered = client.head("/version")
            assert (answered.status_code, answered.content) == (200, b"")
            assert answered.headers["content-length"] == str(len(client.get("/version").content))


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
def test_a_request_whose_client_goes_away_unanswered_is_cancelled(
    url: str, stuck_backend: FakeBackend, fields: dict[str, object]
) -> None:
    stuck_backend.silent = True
    connection = post(url, {"prompt": "x", "max_tokens": 50, **fields})
    wait_until(lambda: len(stuck_backend.requests) == 1, "the request does not arrive")
    connection.close()
    wait_until(lambda: len(stuck_backend.closed) == 1, "the backend's generator is still open")


def test_the_server_goes_on_after_a_hundred_broken_connections(url: str, stuck_backend: FakeBackend) -> None:
    connections = [post(url, {"prompt": "x", "stream": True, "max_tokens": 50}) for _ in range(100)]
    wait_until(lambda: len(stuck_backend.requests) == 100, "the requests do not arrive")
    for connection in connections:
        connection.close()
    wait_until(lambda: len(stuck_backend.closed) == 100, "some generators are still open")
    stuck_backend.gate = None
    assert httpx.post(f"{url}/v1/completions", json={"prompt": "x"}).status_code == 200


def test_a_large_body_is_refused_while_it_is_being_sent(url: str, fake_backend: FakeBackend) -> None:
    """The client still gets its 413, although the server never reads the whole body."""

    def endless() -> Iterator[bytes]:
        for _ in range(3_000):
            yield b"x" * 10_000

    headers = {"content-type": "application/json"}
    response = httpx.post(f"{url}/v1/completions", content=endless(), headers=headers, timeout=120)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
    response = httpx.post(f"{url}/v1/completions", content=b"x" * 300_000, headers=headers, timeout=120)
    assert response.status_code == 413
    connection = connect(url)
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999999\r\n\r\n")
    assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
    connection.close()
    assert fake_backend.requests == []


def test_a_body_that_never_comes(fake_backend: FakeBackend, tokenizer: Tokenizer) -> None:
    app = create_app(backend=fake_backend, tokenizer=tokenizer, limits=ApiLimits(body_timeout_s=0.2))
    with serving(app) as url:
        connection = connect(url)
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
        connection.close()


def test_streams_do_not_wait_for_each_other(url: str, fake_backend: FakeBackend) -> None:
    answers: list[str] = []

    def ask() -> None:
        body = {"prompt": "x", "stream": True, "max_tokens": 50}
        answers.append(httpx.post(f"{url}/v1/completions", json=body, timeout=120).text)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 16
    assert all(answer.endswith("data: [DONE]\n\n") for answer in answers)
