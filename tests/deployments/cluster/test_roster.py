"""Who belongs to the server: what Serve's controller says, or what it said last, and that the server drains."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.schema import ReplicaState

from deployments.cluster import roster
from deployments.cluster.roster import Roster, members
from deployments.health import Member, Members


def replica(name: str, state: ReplicaState, since: float = 0.0) -> Any:
    return SimpleNamespace(replica_id=name, state=state, start_time_s=since)


class Controller:
    """Serve's, as far as a roster asks it."""

    def __init__(self) -> None:
        names = {"engine": "e", "ingress": "i"}
        self.replicas = {kind: [replica(name, ReplicaState.RUNNING)] for kind, name in names.items()}
        self.gone = False
        self.get_deployment_details = SimpleNamespace(remote=self._details)

    async def _details(self, application: str, deployment: str) -> Any:
        assert application == "starcoder"
        if self.gone:
            raise ConnectionError("the controller is away")
        return SimpleNamespace(replicas=self.replicas[deployment])


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    monkeypatch.setattr(roster, "_internal_kv_get", found.get)
    monkeypatch.setattr(roster, "_internal_kv_put", lambda key, value, overwrite: found.update({key: value}))
    monkeypatch.setattr(roster, "_internal_kv_del", lambda key: found.pop(key, None))
    return found


@pytest.fixture
def controller(store: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> Controller:
    made = Controller()
    monkeypatch.setattr(roster.ray, "get_actor", lambda name, namespace: made)
    monkeypatch.setattr(roster, "FRESH_S", 0.0)
    return made


def test_states_are_those_that_people_know_and_the_oldest_is_first() -> None:
    found = members(
        [
            replica("new", ReplicaState.STARTING, 3.0),
            replica("gone", ReplicaState.STOPPED),
            replica("old", ReplicaState.RUNNING, 1.0),
            replica("moves", ReplicaState.PENDING_MIGRATION, 2.0),
        ]
    )
    assert [(member.id, member.state) for member in found] == [
        ("old", "ready"),
        ("moves", "draining"),
        ("new", "starting"),
    ]
    assert set(roster._STATES) == set(ReplicaState) - {ReplicaState.STOPPED}


async def test_it_says_who_is_there(controller: Controller) -> None:
    assert await Roster("starcoder", "engine", "ingress", "i").members() == Members(
        engines=[Member(id="e", state="ready", since=0.0)], ingresses=[Member(id="i", state="ready", since=0.0)]
    )


async def test_without_the_controller_what_it_said_last_is_known(controller: Controller) -> None:
    one = Roster("starcoder", "engine", "ingress", "i")
    known = await one.members()
    controller.gone = True
    assert await one.members() is known
    assert await Roster("starcoder", "engine", "ingress", "i").members() is None


async def test_where_ray_does_not_answer_it_holds_one_thread_and_none_of_those_that_requests_need(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "ANSWER_S", 0.01)
    one = Roster("starcoder", "engine", "ingress", "i")
    answers, asked = threading.Event(), list[str]()

    def get_actor(name: str, namespace: str) -> Controller:
        asked.append(name)
        answers.wait(60)
        return controller

    monkeypatch.setattr(roster.ray, "get_actor", get_actor)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    try:
        assert [await one.members() for _ in range(5)] == [None] * 5
        assert len(asked) == 1
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 30) == "free"
    finally:
        answers.set()
    monkeypatch.setattr(roster, "ANSWER_S", 30.0)
    assert await one.members() is not None


async def test_it_drains_where_that_is_said_or_this_process_is_about_to_move(controller: Controller) -> None:
    one = Roster("starcoder", "engine", "ingress", "i")

    async def draining() -> bool:
        found = await one.members()
        assert found is not None
        return found.draining

    roster.say_draining(60.0)
    assert await draining()
    roster.say_draining(-1.0)
    assert not await draining(), "whoever said it was killed"
    roster.say_draining(60.0)
    roster.say_serving()
    assert not await draining()
    controller.replicas["ingress"] = [
        replica("other", ReplicaState.PENDING_MIGRATION),
        replica("i", ReplicaState.RUNNING),
    ]
    assert not await draining()
    controller.replicas["ingress"] = [replica("i", ReplicaState.PENDING_MIGRATION)]
    assert await draining()
