"""Serve's own proxy speaks TLS, and keeps the limits; a server that nobody has closed yet is open."""

from __future__ import annotations

import pytest

from tests.support.administered import Administered
from tests.support.over_tls import OverTls, Secure
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture
def secure(alone: Administered) -> Secure:
    return alone.secure


class TestOverTls(OverTls):
    pass


def test_it_keeps_the_limits(alone: Administered) -> None:
    """Its process found `deployments.cluster.proxy`; no HAProxy runs."""
    server = alone.cluster
    assert not server.pids("haproxy")
    assert server.status_of_an_endless_head() == 431
    wait_until(lambda: server.lines("connection.refused"), server.text)
    line = server.lines("connection.refused")[-1]
    assert (line["reason"], line["client"], line["process"]) == ("head_too_large", "127.0.0.1", "proxy")


def test_nobody_is_asked_until_there_is_a_key(alone: Administered) -> None:
    """Then everybody is: the command makes the database, and the server finds it."""
    assert alone.before == (200, False)
    assert alone.ask(None).status_code == 401
    assert alone.ask(alone.secure.key).status_code == 200
