"""An engine's replica that cannot start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.cluster import succession
from deployments.cluster.succession import Predecessor
from deployments.replica import replica as module
from deployments.replica.replica import EngineReplica
from deployments.settings import Settings
from monitoring.process import init, render


class _Replica(EngineReplica):
    """Serve begins and ends one in coroutines; here is no Serve."""

    def __init__(self, name: str) -> None:
        self._actor_name = name

    def __del__(self) -> None:  # type: ignore[override]
        pass


@pytest.fixture(autouse=True)
def _in_memory() -> Iterator[None]:
    init(None)
    yield
    init(None)


@pytest.mark.parametrize(
    ("replaced", "killed"),
    [
        (None, 0),
        (Predecessor("SERVE_REPLICA::starcoder#engine#a", counted=True), 0),
        (Predecessor("SERVE_REPLICA::starcoder#engine#a", counted=False), 1),
    ],
)
async def test_a_start_that_fails_is_counted_and_so_is_who_was_killed_before_it(
    replaced: Predecessor | None, killed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(succession, "enlist", lambda name: replaced)
    monkeypatch.setattr(module, "record_on_this_node", lambda settings: None)
    replica = _Replica("SERVE_REPLICA::starcoder#engine#b")
    (tmp_path / "config.json").write_text("no JSON")
    with pytest.raises(Exception, match=r"config\.json"):
        await replica._start(Settings(model=str(tmp_path), served_model_name="pico"), 0.0)
    for cause, count in {"start": 1, "killed": killed, "died": 0}.items():
        assert f'starcoder_rank_failures_total{{cause="{cause}",model="pico"}} {count:.1f}' in render().decode()
