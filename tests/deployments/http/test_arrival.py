"""When a request came is said by its front, and never by its client."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.http import arrival
from deployments.http.connection import GuardedProtocol
from tests.support.http_server import serving

NAME = arrival.FIELD.encode()
LONG_AGO = {arrival.FIELD: "1000000"}


def at(seconds: float) -> list[tuple[bytes, bytes]]:
    fields: list[tuple[bytes, bytes]] = [(b"host", b"x")]
    arrival.say(fields, said=False, clock=lambda: seconds)
    return fields


@pytest.mark.parametrize(
    ("now", "ago"), [(1000.0, 0.0), (1000.25, 0.25), (1090.0, 90.0), (999.0, 0.0), (1000 + arrival.LONGEST_S, 0.0)]
)
def test_what_was_said_is_read_unless_it_cannot_be(now: float, ago: float) -> None:
    assert arrival.seconds_ago(at(1000.0), lambda: now) == pytest.approx(ago, abs=1e-5)


@given(st.binary())
def test_whatever_stands_there_is_a_time_or_none(value: bytes) -> None:
    assert 0.0 <= arrival.seconds_ago([(NAME, value)]) < arrival.LONGEST_S


@pytest.mark.parametrize("value", [b"9" * 5000, b"1e9", b"-1", b"nan", b""])
def test_what_is_no_time_is_none(value: bytes) -> None:
    assert arrival.seconds_ago([(NAME, value)]) == 0.0
    assert arrival.seconds_ago([]) == 0.0


def test_only_who_is_trusted_has_said_it() -> None:
    fields = at(1000.0)
    arrival.say(fields, said=True, clock=lambda: 2000.0)
    assert arrival.seconds_ago(fields, lambda: 1001.0) == pytest.approx(1.0)
    arrival.say(fields, said=False, clock=lambda: 2000.0)
    assert arrival.seconds_ago(fields, lambda: 2001.0) == pytest.approx(1.0)
    assert [name for name, _ in fields] == [b"host", NAME]


async def told(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(" ".join(value.decode() for name, value in scope["headers"] if name == NAME))(scope, receive, send)


class Fronted(GuardedProtocol):
    fronted = True


@pytest.fixture(params=[GuardedProtocol, Fronted])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[bool, str]]:
    """Whether only a front connects to it, and its address."""
    with serving(told, http=request.param) as url:
        yield request.param.fronted, url


def test_the_protocol_says_it_for_its_clients(server: tuple[bool, str]) -> None:
    fronted, url = server
    before = time.time()
    with httpx.Client(base_url=url) as client:
        for headers in ({}, {}, LONG_AGO):
            said = client.get("/", headers=headers).text
            if headers and fronted:
                assert said == "1000000"
            else:
                assert before - 1 <= int(said) / 1e6 <= time.time() + 1
