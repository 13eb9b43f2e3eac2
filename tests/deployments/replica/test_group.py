"""Which rank's error is the one that is told; what a rank does once it is loaded."""

from __future__ import annotations

import asyncio
import gc

import pytest

from deployments.replica.group import RankProcess, cause
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
