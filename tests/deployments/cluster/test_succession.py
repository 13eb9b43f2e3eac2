"""A new engine says which dead one it replaces, and only where one died."""

from __future__ import annotations

import pytest

from deployments.cluster import succession


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    """Ray's key-value store, as a dictionary."""
    store: dict[bytes, bytes] = {}

    def put(key: bytes, value: bytes, overwrite: bool) -> None:
        store[key] = value

    monkeypatch.setattr(succession, "_internal_kv_put", put)
    monkeypatch.setattr(succession, "_internal_kv_get", store.get)
    monkeypatch.setattr(succession, "_internal_kv_list", lambda prefix: [k for k in store if k.startswith(prefix)])
    monkeypatch.setattr(succession, "_internal_kv_del", lambda key: int(store.pop(key, None) is not None))
    return store


def test_the_first_engine_and_one_more_replace_nobody(listed: dict[bytes, bytes]) -> None:
    assert succession.enlist("a", lambda name: True) is None
    assert succession.enlist("b", lambda name: True) is None
    assert len(listed) == 2


def test_each_dead_engine_is_replaced_once(listed: dict[bytes, bytes]) -> None:
    for name in ("a", "b"):
        succession.enlist(name, lambda name: True)
    dead = {"a", "b"}
    replaced = {succession.enlist(name, lambda name: name not in dead) for name in ("c", "d")}
    assert {one.name for one in replaced if one is not None} == dead
    assert succession.enlist("e", lambda name: name not in dead) is None


def test_what_died_by_its_own_hand_has_counted_itself(listed: dict[bytes, bytes]) -> None:
    for name in ("a", "b"):
        succession.enlist(name, lambda name: True)
    succession.counted("a")
    replaced = {succession.enlist(name, lambda name: name in ("c", "d")) for name in ("c", "d")}
    assert replaced == {("a", True), ("b", False)}


def test_one_that_stopped_in_order_is_not_replaced(listed: dict[bytes, bytes]) -> None:
    succession.enlist("a", lambda name: True)
    succession.strike_off("a")
    assert succession.enlist("b", lambda name: False) is None


def test_an_engine_lives_while_serve_has_an_actor_of_its_name(
    listed: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def get_actor(name: str, namespace: str) -> None:
        asked.append((name, namespace))
        if name == "dead":
            raise ValueError("Failed to look up actor")

    monkeypatch.setattr(succession.ray, "get_actor", get_actor)
    for name in ("dead", "living"):
        succession.enlist(name, lambda name: True)
    assert succession.enlist("new") == ("dead", False)
    assert succession.enlist("next") is None
    assert succession.enlist("living") is None, "and nobody takes its own place"
    assert set(asked) == {(name, "serve") for name in ("dead", "living", "new", "next")}
    assert {key.decode().rpartition("/")[2] for key in listed} == {"living", "new", "next"}
