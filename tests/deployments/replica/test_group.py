"""Which rank's error is the one that is told; what a rank does once it is loaded."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayActorError

from deployments.replica.group import RankGroup, RankProcess, _is_ray_worker, cause
from model.config import ELSEWHERE, ConfigError, EngineConfig
from tests.support.log_lines import captured

pytestmark = pytest.mark.virtual_time

REASON = "attention=triton needs a GPU"


async def fails(after: float, text: str) -> None:
    await asyncio.sleep(after)
    raise ConfigError(text)


async def hangs() -> None:
    await asyncio.sleep(1e6)


@pytest.mark.parametrize(
    ("ranks", "told"),
    [
        ([(0, REASON), (0, f"attention=triton {ELSEWHERE}")], REASON),
        ([(0, f"attention=triton {ELSEWHERE}"), (3, REASON)], REASON),
        ([(0, REASON), None], REASON),
        ([(0, f"attention=triton {ELSEWHERE}"), None], ELSEWHERE),
        ([(0, f"a {ELSEWHERE}"), (1, f"b {ELSEWHERE}")], ELSEWHERE),
    ],
)
async def test_the_rank_that_knows_the_reason_is_heard(ranks: list[tuple[float, str] | None], told: str) -> None:
    loads = [asyncio.create_task(hangs() if rank is None else fails(*rank)) for rank in ranks]
    await asyncio.wait(loads, return_when=asyncio.FIRST_EXCEPTION)
    started_at = asyncio.get_running_loop().time()
    assert told in str(await cause(loads))
    assert asyncio.get_running_loop().time() - started_at <= 10
    for load in loads:
        load.cancel()


async def test_why_a_step_failed_is_in_the_log_of_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica may be gone, and hears the first line only."""

    class Failing:
        def __init__(self, *_: object) -> None: ...

        def run(self, _: str) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr("model.process.rank.Rank", Failing)
    with captured() as lines, pytest.raises(RuntimeError):
        RankProcess(EngineConfig(model="pico"), 0, 1).run("")
    (line,) = lines.all("rank.failed")
    assert line["level"] == "error"
    assert "RuntimeError: CUDA error: an illegal memory access was encountered" in line["exception"]


async def test_garbage_collections_leave_out_what_a_process_starts_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank does it for itself; Serve does it for ingress and replicas, and for its proxies."""
    from ray.serve._private import constants

    class Loaded:
        def __init__(self, *_: object) -> None: ...

        def load(self, *_: object) -> dict[str, object]:
            return {"rank": 0}

    monkeypatch.setattr("model.process.rank.Rank", Loaded)
    gc.unfreeze()  # the run of the tests does the same, and it is as it was afterwards
    assert RankProcess(EngineConfig(model="pico"), 0, 1).load("") == {"rank": 0}
    assert gc.get_freeze_count() > 10_000
    assert constants.RAY_SERVE_FREEZE_GC_ON_STARTUP
    assert constants.RAY_SERVE_ENABLE_PROXY_GC_OPTIMIZATIONS


async def ends(after: float, error: Exception | None = None) -> None:
    await asyncio.sleep(after)
    if error is not None:
        raise error


def group_of(tmp_path: Path, *runs: Coroutine[Any, Any, None]) -> RankGroup:
    """Ranks without processes, whose `run`s are these."""
    return RankGroup([], [10 + rank for rank in range(len(runs))], tmp_path / "socket" / "engine.sock", list(runs))


GONE = RayActorError(error_msg="The actor died: its worker was killed.\nAnd so on.")


@pytest.mark.parametrize(
    ("runs", "rank", "reason"),
    [
        ([(1, ValueError("one")), (9, None)], 0, "rank 0 died: one"),
        ([(9, None), (1, ValueError("first\nsecond"))], 1, "rank 1 died: first"),
        ([(1.1, ValueError("two")), (1, ValueError("one"))], 1, "rank 1 died: one"),
        ([(1, ValueError("the other is gone")), (1.4, GONE)], 1, f"rank 1 died: {GONE}".splitlines()[0]),
        ([(1, ValueError("the other is gone")), (1.6, GONE)], 0, "rank 0 died: the other is gone"),
        ([(1, ValueError())], 0, "rank 0 died: ValueError"),
        ([(1, None), (9, None)], None, "a rank stopped by itself"),
    ],
)
async def test_the_rank_that_is_gone_is_named_before_those_that_noticed(
    tmp_path: Path, runs: list[tuple[float, Exception | None]], rank: int | None, reason: str
) -> None:
    group = group_of(tmp_path, *(ends(*run) for run in runs))
    with captured() as lines:
        assert await group.ended() == reason
    assert [(line["rank"], line["rank_pid"]) for line in lines.all("rank.died")] == (
        [] if rank is None else [(rank, 10 + rank)]
    )
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def test_ranks_have_so_long_to_stop(tmp_path: Path) -> None:
    assert await group_of(tmp_path).stopped(1.0), "there are none"
    assert await group_of(tmp_path, ends(0.5), ends(0.9)).stopped(1.0)
    assert await group_of(tmp_path, ends(0.5), ends(0.9, ValueError("it has ended"))).stopped(1.0)
    slow = group_of(tmp_path, ends(0.5), ends(1.1))
    started_at = asyncio.get_running_loop().time()
    assert not await slow.stopped(1.0)
    assert asyncio.get_running_loop().time() - started_at == pytest.approx(1.0)
    await asyncio.sleep(1)


async def test_what_is_killed_is_a_rank_and_nobody_who_has_its_id_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr("deployments.replica.group.os.kill", lambda *what: killed.append(what))
    monkeypatch.setattr("deployments.replica.group._is_ray_worker", lambda pid: pid != 11)
    group = group_of(tmp_path, ends(0), ends(0), ends(0))
    group.socket_path.parent.mkdir()
    group.kill()
    assert killed == [(10, signal.SIGKILL), (12, signal.SIGKILL)]
    assert not group.socket_path.parent.exists()
    assert await group.stopped(1)


def test_this_process_is_no_rank() -> None:
    assert not _is_ray_worker(os.getpid())
    assert not _is_ray_worker(2**22 + 1), "there is none"
