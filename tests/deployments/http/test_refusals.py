"""Connections that never became requests are counted, and told of in few lines."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

import monitoring
from deployments.http.connection import GuardedProtocol
from deployments.http.refusals import Refusals
from deployments.limits import ApiLimits
from monitoring.connections import ConnectionMetrics
from monitoring.few_lines import MOST_LINES, PERIOD_S
from tests.support.http_server import serving
from tests.support.log_lines import LogLines, captured
from tests.support.virtual_time import VirtualTimeLoop
from tests.support.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture
def lines() -> Iterator[LogLines]:
    with captured() as lines:
        yield lines


@pytest.fixture
def told() -> Iterator[Refusals]:
    monitoring.init(None)
    yield Refusals(ConnectionMetrics("pico"))
    monitoring.init(None)


def counted(reason: str) -> float:
    series = f'starcoder_connections_refused_total{{model="pico",reason="{reason}"}} '
    (line,) = [line for line in monitoring.render().decode().splitlines() if line.startswith(series)]
    return float(line.rpartition(" ")[2])


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("x" * (50_000_000 if scope["path"] == "/large" else 1))(scope, receive, send)


@pytest.mark.parametrize(
    ("sent", "reason", "most"),
    [
        (b"\x16\x03\x01 hello\r\n\r\n", "invalid_http", 10),
        (GET, "request_timeout", 10),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", "request_line_too_long", 10),
        (GET + b"x: " + b"a" * 20_000 + b"\r\n\r\n", "head_too_large", 10),
        (b"", "too_many_connections", 1),
        (GET.replace(b"/ ", b"/large ") + b"connection: close\r\n\r\n", "slow_reader", 10),
    ],
)
def test_each_has_a_count_and_a_line(told: Refusals, lines: LogLines, sent: bytes, reason: str, most: int) -> None:
    class Guarded(GuardedProtocol):
        limits = ApiLimits(max_head_bytes=16_384, head_timeout_s=1, write_timeout_s=1, max_connections=most)
        refusals = told

    with serving(answer, http=Guarded) as url:
        address = (urlsplit(url).hostname, urlsplit(url).port)
        with socket.create_connection(address) as first, socket.create_connection(address) as second:
            for connection in (first, second) if most > 1 else ():
                connection.sendall(sent)
            wait_until(lambda: counted(reason) == (2 if most > 1 else 1), "it is not counted")
    found = lines.all("connection.refused")
    assert [(line["reason"], line["client"], line["level"]) for line in found[:1]] == [(reason, "127.0.0.1", "info")]


def test_an_attack_does_not_fill_the_log(told: Refusals, lines: LogLines) -> None:
    async def attack() -> None:
        for _ in range(1000):
            told.note("invalid_http", "192.0.2.1")
        assert len(lines.all()) == MOST_LINES
        await asyncio.sleep(10 * PERIOD_S)
        assert lines.all()[-1]["left_out"] == 1000 - MOST_LINES
        for _ in range(500):
            told.note("invalid_http", "192.0.2.1")
        await asyncio.sleep(10 * PERIOD_S)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(attack())
    assert counted("invalid_http") == 1500
    found = [line.get("left_out", 0) for line in lines.all("connection.refused")]
    assert found[-1], "the last are told of, though nobody came after them"
    assert sum(found) + found.count(0) == 1500, "each is told of once"


def test_what_is_no_known_reason_is_counted_as_other(told: Refusals, lines: LogLines) -> None:
    told.note("of my own making", None)
    assert counted("other") == 1
    assert "client" not in lines.all()[0]
