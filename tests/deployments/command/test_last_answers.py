"""What the end of a server waits for: requests, engines that work, and bytes that clients have not taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployments.command import last_answers
from deployments.settings import Settings

ADMIN = Path("admin")


class World:
    """HAProxy, its processes, and the answer of `/health`."""

    def __init__(self) -> None:
        self.requests: int | None = 0
        self.unsent = 0
        self.health: tuple[int, bytes] | None = (503, json.dumps({"running": 0, "waiting": 0}).encode())

    def ask(self, admin: Path) -> int:
        assert admin == ADMIN
        if self.requests is None:
            raise ConnectionRefusedError
        return self.requests

    def get(self, path: str) -> tuple[int, bytes] | None:
        assert path == "/health"
        return self.health


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(last_answers, "requests", world.ask)
    monkeypatch.setattr(last_answers, "unsent_bytes", lambda pids: world.unsent)
    monkeypatch.setattr(last_answers, "front", lambda settings: world)
    return world


def written() -> bool:
    return last_answers._written(Settings(), ADMIN)


def test_without_anything_to_do_all_is_written(world: World) -> None:
    assert written()


def test_a_request_that_haproxy_has_is_waited_for(world: World) -> None:
    world.requests = 1
    assert not written()


def test_bytes_that_a_client_has_not_taken_are_waited_for_even_where_haproxy_answers_nobody(world: World) -> None:
    world.requests, world.unsent = None, 1
    assert not written()
    world.unsent = 0
    assert written()


@pytest.mark.parametrize("kind", ["running", "waiting"])
def test_what_engines_work_on_for_an_older_haproxy_is_waited_for(world: World, kind: str) -> None:
    world.health = (503, json.dumps({"running": 0, "waiting": 0, kind: 1}).encode())
    assert not written()


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'"x"', b'{"error": {"code": "draining"}}', b'{"running": null}']
)
def test_where_there_are_no_engines_any_more_none_works(world: World, body: bytes) -> None:
    world.health = (503, body)
    assert written()
    world.health = None
    assert written()
