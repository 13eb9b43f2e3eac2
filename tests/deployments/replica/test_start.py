"""An engine's replica from Serve's call until it starts its engine, and where it cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private import replica as internals

from deployments.cluster import succession
from deployments.cluster.succession import Predecessor
from deployments.replica import replica as module
from deployments.replica.replica import EngineReplica, keep_to_loopback
from deployments.settings import Settings
from monitoring.process import init, render
from tests.support.log_lines import LogLines, captured

NAME = "SERVE_REPLICA::starcoder#engine#b"


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


@pytest.fixture
def lines() -> Iterator[LogLines]:
    with captured() as lines:
        yield lines


@pytest.mark.parametrize(
    ("replaced", "killed"),
    [
        (None, 0),
        (Predecessor("SERVE_REPLICA::starcoder#engine#a", counted=True), 0),
        (Predecessor("SERVE_REPLICA::starcoder#engine#a", counted=False), 1),
    ],
)
async def test_a_start_that_fails_is_counted_and_so_is_who_was_killed_before_it(
    replaced: Predecessor | None, killed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: LogLines
) -> None:
    enlisted: list[str] = []
    monkeypatch.setattr(succession, "enlist", lambda name: enlisted.append(name) or replaced)
    monkeypatch.setattr(module, "record_on_this_node", lambda settings: None)
    monkeypatch.setattr(module, "on_node_end", lambda call: None)
    replica = _Replica(NAME)
    (tmp_path / "config.json").write_text("no JSON")
    settings = Settings(model=str(tmp_path), served_model_name="pico", tensor_parallel_size=2)
    with pytest.raises(Exception, match=r"config\.json"):
        await replica._start(settings, 0.0)
    for cause, count in {"start": 1, "killed": killed, "died": 0}.items():
        assert f'starcoder_rank_failures_total{{cause="{cause}",model="pico"}} {count:.1f}' in render().decode()
    assert enlisted == [NAME]
    (starting,) = lines.all("engine.starting")
    found = [starting.get(name) for name in ("model", "tensor_parallel_size", "replaces")]
    assert found == ["pico", 2, "a" if replaced else None]
    assert [(line["engine"], line["level"]) for line in lines.all("engine.killed")] == [("a", "error")] * killed


class Begun:
    """What a replica does before it starts its engine, and what it says where it could not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.did: list[tuple[Any, ...]] = []
        full = SimpleNamespace(to_full_id_str=lambda: NAME, unique_id="b")
        note = self.did.append
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        monkeypatch.setattr(module.serve, "get_replica_context", lambda: SimpleNamespace(replica_id=full))
        monkeypatch.setattr(module, "keep_to_loopback", lambda: note(("loopback",)))
        monkeypatch.setattr(module, "configure_logs", lambda settings, **fields: note(("logs", settings, fields)))
        monkeypatch.setattr(module.tracing, "init", lambda *where, **who: note(("tracing", *where, who)) or "tracing")
        monkeypatch.setattr(module.monitoring, "farewell", lambda: note(("farewell",)))
        monkeypatch.setattr(succession, "counted", self.counted)
        self.reachable = True

    def counted(self, name: str) -> None:
        self.did.append(("counted", name))
        if not self.reachable:
            raise ConnectionError("Ray's store is away")


class _Begun(EngineReplica):
    fails = False

    async def _start(self, settings: Settings, started_at: float) -> None:
        if self.fails:
            raise ValueError("no room")

    def __del__(self) -> None:  # type: ignore[override]
        pass


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Begun:
    return Begun(monkeypatch)


async def test_it_sees_no_gpu_and_says_who_it_is_before_it_starts_its_engine(begun: Begun) -> None:
    settings = Settings(model="pico", otlp_endpoint="http://traces:4318", trace_sample_ratio=0.25)
    replica = object.__new__(_Begun)
    await replica.__init__(settings)  # type: ignore[misc]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert begun.did == [
        ("loopback",),
        ("logs", settings, {"process": "engine", "replica": "b"}),
        ("tracing", settings.otlp_endpoint, 0.25, {"instance.id": "starcoder#engine#b"}),
    ]
    assert (replica._name, replica._actor_name, replica._tracing) == ("b", NAME, "tracing")


@pytest.mark.parametrize("reachable", [True, False])
async def test_one_that_could_not_start_says_why_and_was_not_killed(
    begun: Begun, monkeypatch: pytest.MonkeyPatch, lines: LogLines, reachable: bool
) -> None:
    monkeypatch.setattr(_Begun, "fails", True)
    begun.reachable = reachable
    with pytest.raises(ValueError, match="no room"):
        await object.__new__(_Begun).__init__(Settings(model="pico"))  # type: ignore[misc]
    assert begun.did[3:] == [("farewell",), ("counted", NAME)]
    (line,) = lines.all("engine.start_failed")
    assert line["level"] == "error"
    assert line["exception"].endswith("ValueError: no room")


@pytest.mark.parametrize(("node", "told"), [("127.0.0.1", "127.0.0.1:5"), ("10.0.0.7", "[::]:5")])
def test_on_a_node_on_loopback_serves_own_server_listens_there_alone(
    monkeypatch: pytest.MonkeyPatch, node: str, told: str
) -> None:
    """It takes pickled calls."""
    asked: list[tuple[str, str]] = []

    def add_port(server: str, address: str) -> int:
        asked.append((server, address))
        return 5

    monkeypatch.setattr(internals, "add_port_to_grpc_server", add_port)
    monkeypatch.setattr(module, "get_node_ip_address", lambda: node)
    keep_to_loopback()
    assert internals.add_port_to_grpc_server("server", "[::]:5") == 5  # type: ignore[arg-type]
    assert asked == [("server", told)]
