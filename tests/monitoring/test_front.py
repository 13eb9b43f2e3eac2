"""How a server is asked from outside its processes, and what else an exporter passes on."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monitoring import front, relay
from monitoring.front import FILE, TIMEOUT_S, Front, reachable, tell, told
from monitoring.relay import with_others


@pytest.mark.parametrize(
    ("host", "reached"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.1.2.3", "10.1.2.3"), ("::1", "::1")]
)
def test_who_listens_everywhere_is_asked_on_loopback(host: str, reached: str) -> None:
    assert reachable(host) == reached


class Connections:
    """What is connected, instead."""

    def __init__(self) -> None:
        self.made: list[tuple[tuple[object, ...], dict[str, Any]]] = []
        self.asked: list[tuple[str, str]] = []
        self.closed = 0

    def __call__(self, *arguments: object, **options: Any) -> Connections:
        self.made.append((arguments, options))
        return self

    def request(self, method: str, path: str) -> None:
        self.asked.append((method, path))

    def getresponse(self) -> SimpleNamespace:
        return SimpleNamespace(status=203, read=lambda: b"body")

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_is_asked_by_the_way_that_it_listens(tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = Connections()
    monkeypatch.setattr(front.http.client, "HTTPSConnection" if tls else "HTTPConnection", connections)
    asked = Front("0.0.0.0", 8443, tls, "pico")
    assert asked.get("/version") == (203, b"body")
    asked.get("/", 0.5)
    assert (connections.asked, connections.closed) == ([("GET", "/version"), ("GET", "/")], 2)
    assert [arguments for arguments, _ in connections.made] == [("127.0.0.1", 8443)] * 2
    assert [options["timeout"] for _, options in connections.made] == [TIMEOUT_S, 0.5]
    for _, options in connections.made:
        assert ("context" in options) is tls
        if tls:
            checked = options["context"]
            assert (checked.check_hostname, checked.verify_mode) == (False, ssl.CERT_NONE)


def test_what_is_no_http_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example.com ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert Front("127.0.0.1", listener.getsockname()[1], False, "pico").get("/") is None
        thread.join(120)


def test_what_was_told_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for port in (1, 2):
        tell(tmp_path, Front("::", port, True, "pico"))
        assert told(tmp_path) == Front("::", port, True, "pico")
        assert [path.name for path in tmp_path.iterdir()] == [FILE]
    for text in ("{", "[1]", '{"host": "a"}'):
        (tmp_path / FILE).write_text(text)
        assert told(tmp_path) is None
    assert told(tmp_path / "none") is None
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    assert told(tmp_path) is None, "it cannot be read"


def test_the_newest_counts_whatever_its_node_is_called(tmp_path: Path) -> None:
    for at, node in enumerate(("node-b", "node-c", "node-a")):
        (tmp_path / node).mkdir()
        tell(tmp_path / node, Front("::", at, False, "pico"))
        os.utime(tmp_path / node / FILE, (at, at))
    found = told(tmp_path)
    assert found is not None
    assert found.port == 2


class Answers:
    """Whoever is passed on."""

    def __init__(self, kind: str | None = None, failure: Exception | None = None) -> None:
        self.asked: list[tuple[str, float]] = []
        self.headers = Message()
        if kind is not None:
            self.headers["content-type"] = kind
        self._failure = failure

    def open(self, url: str, timeout: float) -> Answers:
        self.asked.append((url, timeout))
        if self._failure is not None:
            raise self._failure
        return self

    def read(self) -> bytes:
        return b"rays 1\n"

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None: ...


def asked(answers: Answers, path: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, str], bytes]:
    found: list[Any] = []

    def own(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        start_response("200 OK", [])
        return [b"own"]

    monkeypatch.setattr(relay, "_straight", answers)
    body = with_others(own, {"ray": "127.0.0.1:2"})(  # type: ignore[arg-type]
        {"PATH_INFO": path},
        lambda status, headers: found.extend((status, dict(headers))),  # type: ignore[arg-type, return-value]
    )
    return found[0], found[1], b"".join(body)


@pytest.mark.parametrize(
    ("kind", "passed"), [("application/openmetrics-text", "application/openmetrics-text"), (None, "text/plain")]
)
def test_what_others_show_is_passed_on_as_they_say_it(
    kind: str | None, passed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(kind)
    for path in ("/ray", "/ray/"):
        assert asked(answers, path, monkeypatch) == ("200 OK", {"Content-Type": passed}, b"rays 1\n")
    assert answers.asked == [("http://127.0.0.1:2/metrics", relay.TIMEOUT_S)] * 2
    for path in ("/metrics", "/rays", "/"):
        assert asked(answers, path, monkeypatch)[2] == b"own"
    assert len(answers.asked) == 2


@pytest.mark.parametrize("failure", [OSError("refused"), http.client.IncompleteRead(b"")])
def test_of_others_that_do_not_answer_it_says_so(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    status, headers, body = asked(Answers(failure=failure), "/ray", monkeypatch)
    assert (status, headers) == ("502 Bad Gateway", {"Content-Type": "text/plain; charset=utf-8"})
    assert body == f"127.0.0.1:2 does not answer: {failure}\n".encode()
