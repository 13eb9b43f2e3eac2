"""How the ranks of one engine are started: over a stand-in for Ray whose actors are in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from deployments.replica import group as module
from deployments.replica.group import PROGRESS_PERIOD_S, RankGroup, RankProcess
from model.config import EngineConfig
from tests.support.log_lines import captured

pytestmark = pytest.mark.virtual_time

CONFIG = EngineConfig(model="pico", tensor_parallel_size=3)
PLACEMENT: Any = SimpleNamespace(id="the replica's")


class Method:
    """Of an actor: what is called is on its way at once."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def remote(self, *arguments: Any) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self._call(*arguments))


class Actor:
    """One rank. loads_for: seconds that its `load` takes, at whose end it fails, where something is to fail."""

    loads_for = 2.5
    fails: Exception | None = None
    deaf = False

    def __init__(self, options: dict[str, Any], config: EngineConfig, rank: int, size: int, logs: object) -> None:
        self.options, self.given, self.rank = options, (config, rank, size, logs), rank
        self.calls: list[tuple[str, ...]] = []
        self.killed = 0
        for name in ("listen", "load", "progress", "run"):
            setattr(self, name, Method(getattr(self, f"_{name}")))

    async def _listen(self) -> tuple[int, str]:
        if self.deaf:
            raise RuntimeError("no port is free")
        return 100 + self.rank, "" if self.rank else "127.0.0.1:7"

    async def _load(self, address: str) -> dict[str, Any]:
        self.calls.append(("load", address))
        self.began = asyncio.get_running_loop().time()
        await asyncio.sleep(self.loads_for + self.rank)
        if self.fails is not None:
            raise self.fails
        return {"rank": self.rank}

    async def _progress(self) -> float:
        return min((asyncio.get_running_loop().time() - self.began) / 10, 1.0) + self.rank / 100

    async def _run(self, path: str) -> None:
        self.calls.append(("run", path))
        await asyncio.sleep(1e6)


class Ray:
    def __init__(self) -> None:
        self.actors: list[Actor] = []
        self.classes: list[type] = []

    def remote(self, rank_class: type) -> Any:
        self.classes.append(rank_class)
        return SimpleNamespace(options=self.options)

    def options(self, **options: Any) -> Any:
        def start(*arguments: Any) -> Actor:
            self.actors.append(Actor(options, *arguments))
            return self.actors[-1]

        return SimpleNamespace(remote=start)

    def kill(self, actor: Actor, *, no_restart: bool) -> None:
        assert no_restart
        actor.killed += 1


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ray:
    ray, directory = Ray(), tmp_path / "starcoder-1-x"
    directory.mkdir()
    monkeypatch.setattr(module, "ray", ray)
    monkeypatch.setattr(module, "private_directory", lambda: directory)
    monkeypatch.setattr(module, "remove_stale", lambda: None)
    monkeypatch.setattr(module, "_is_ray_worker", lambda pid: False)
    monkeypatch.setattr(Actor, "fails", None)
    return ray


async def start(bundle: dict[str, float] | None = None, **more: Any) -> RankGroup:
    return await RankGroup.start(CONFIG, PLACEMENT, bundle or {"CPU": 2.0}, **more)


@pytest.mark.parametrize(("bundle", "gpus"), [({"CPU": 2.0}, 0), ({"CPU": 2.0, "GPU": 1.0}, 1.0)])
async def test_there_is_a_rank_in_each_bundle_but_the_first(ray: Ray, bundle: dict[str, float], gpus: float) -> None:
    group = await start(bundle, configure_logs=print)
    assert ray.classes == [RankProcess]
    assert [actor.given for actor in ray.actors] == [(CONFIG, rank, 3, print) for rank in range(3)]
    for actor in ray.actors:
        where = actor.options.pop("scheduling_strategy")
        assert isinstance(where, PlacementGroupSchedulingStrategy)
        assert where.placement_group is PLACEMENT
        assert where.placement_group_bundle_index == 1 + actor.rank
        # Its `run` takes one thread for ever, and `progress` is asked while `load` has it. Nobody starts it again.
        assert actor.options == {"num_cpus": 2.0, "num_gpus": gpus, "max_restarts": 0, "max_concurrency": 2}
    assert group.pids == [100, 101, 102]
    assert group.reports == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
    assert (group.socket_path.name, group.socket_path.parent.exists()) == ("engine.sock", True)
    await asyncio.sleep(0)
    assert [actor.calls for actor in ray.actors] == [[("load", "127.0.0.1:7"), ("run", str(group.socket_path))]] * 3
    assert not await group.stopped(1.0), "its runs are the ranks'"
    group.release()
    assert [actor.killed for actor in ray.actors] == [1, 1, 1]
    assert not group.socket_path.parent.exists()


async def test_the_slowest_rank_is_told_of_while_they_load(ray: Ray) -> None:
    told: list[float] = []
    began = asyncio.get_running_loop().time()
    await start(on_progress=told.append)
    assert asyncio.get_running_loop().time() - began == pytest.approx(Actor.loads_for + 2)
    assert told == pytest.approx([PROGRESS_PERIOD_S * number / 10 for number in (1, 2, 3, 4)])


@pytest.mark.parametrize("failing", ["listen", "load"])
async def test_where_one_rank_fails_none_is_left(ray: Ray, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    if failing == "listen":
        monkeypatch.setattr(Actor, "deaf", True)
    else:
        monkeypatch.setattr(Actor, "fails", RuntimeError("no port is free"))
    began = asyncio.get_running_loop().time()
    with pytest.raises(RuntimeError, match="no port is free"):
        await start()
    took = asyncio.get_running_loop().time() - began
    assert took == (0 if failing == "listen" else Actor.loads_for), "the others are not waited for"
    assert [actor.killed for actor in ray.actors] == [1, 1, 1]
    assert [actor.calls[1:] for actor in ray.actors] == [[], [], []], "none runs"
    assert not module.private_directory().exists()


async def test_a_rank_that_ray_has_forgotten_keeps_no_other_from_being_let_go(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, killed = await start(), list[int]()

    def kill(actor: Actor, **_: object) -> None:
        if actor.rank == 1:
            raise ValueError("no such actor")
        killed.append(actor.rank)

    monkeypatch.setattr(ray, "kill", kill)
    group.release()
    assert killed == [0, 2]
    assert not group.socket_path.parent.exists()


class Rank:
    """What `RankProcess` drives."""

    def __init__(self, config: EngineConfig, rank: int, size: int) -> None:
        self.group = SimpleNamespace(is_first=rank == 0, size=size)
        self.config = config
        self.paths: list[str] = []

    def listen(self) -> str:
        return "127.0.0.1:7"

    def load(self, address: str, progress: Callable[[float], None]) -> dict[str, str]:
        progress(0.5)
        return {"address": address}

    def run(self, path: str) -> None:
        self.paths.append(path)


def test_a_rank_says_who_it_is_and_how_far_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.process.rank.Rank", Rank)
    monkeypatch.setattr(module.os, "getpid", lambda: 77)
    monkeypatch.setattr(module.gc, "freeze", lambda: None)  # the tests' process has more than a rank's
    configured: list[dict[str, int]] = []
    first, second = (RankProcess(CONFIG, rank, 3, lambda **fields: configured.append(fields)) for rank in (0, 1))
    assert configured == [{"rank": 0}, {"rank": 1}], "so is each line of its log"
    assert (first._rank.config, first._rank.group.size) == (CONFIG, 3)
    assert (first.listen(), second.listen()) == ((77, "127.0.0.1:7"), (77, "")), "the first one's is the address"
    assert first.progress() == 0.0
    assert first.load("127.0.0.1:7") == {"address": "127.0.0.1:7"}
    assert first.progress() == 0.5
    first.run("/a/socket")
    assert first._rank.paths == ["/a/socket"]  # type: ignore[attr-defined]


def test_why_a_rank_could_not_load_is_in_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Rank):
        def load(self, address: str, progress: Callable[[float], None]) -> dict[str, str]:
            raise OSError("no space left")

    monkeypatch.setattr("model.process.rank.Rank", Failing)
    with captured() as lines, pytest.raises(OSError, match="no space left"):
        RankProcess(CONFIG, 0, 1).load("")
    (line,) = lines.all("rank.failed")
    assert line["level"] == logging.getLevelName(logging.ERROR).lower()
    assert line["exception"].endswith("OSError: no space left")
