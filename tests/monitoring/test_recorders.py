"""What recorders are told stands in the series that it belongs to, and what watches holds nobody up at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitoring import exporter, keeper, process
from monitoring.connections import ConnectionMetrics
from monitoring.labels import CONNECTION_REFUSALS, DeclaredLabels
from monitoring.metrics import PROCESS_DEATHS
from monitoring.probe import Probe
from monitoring.process import expect_farewell, init, render
from monitoring.replica import ReplicaMetrics


@pytest.fixture(autouse=True)
def _in_memory() -> Iterator[None]:
    init(None)
    yield
    init(None)


def by_label(name: str, label: str) -> dict[str, float]:
    """The sums of a metric's series."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(render().decode()):
        for sample in family.samples:
            if sample.name == f"starcoder_{name}":
                found[sample.labels[label]] = found.get(sample.labels[label], 0.0) + sample.value
    return found


def test_refused_connections_are_counted_by_why() -> None:
    connections = ConnectionMetrics("pico")
    for number, reason in enumerate(CONNECTION_REFUSALS, start=1):
        for _ in range(number):
            connections.refused(reason)
    connections.refused("never heard of")
    expected = {reason: float(number) for number, reason in enumerate(CONNECTION_REFUSALS, start=1)}
    assert by_label("connections_refused_total", "reason") == expected | {"other": expected["other"] + 1}


def test_memory_is_told_of_each_gpu() -> None:
    gpus = [SimpleNamespace(gpu=f"GPU-{number}", used=number, total=10 * number) for number in (1, 2)]
    ReplicaMetrics("pico").gpu_memory(gpus)
    assert by_label("gpu_memory_used_bytes", "gpu") == {"GPU-1": 1, "GPU-2": 2}
    assert by_label("gpu_memory_total_bytes", "gpu") == {"GPU-1": 10, "GPU-2": 20}


def test_requests_are_told_apart_by_their_dialects() -> None:
    replica = ReplicaMetrics("pico", declared=DeclaredLabels(apis=("tabby", "tgi"), rules=()))
    for dialect in ("tgi", "tgi", "tabby", "never heard of"):
        replica.of("default", dialect).first_token(0.1)
    assert by_label("time_to_first_token_seconds_count", "dialect") == {"tgi": 2, "tabby": 1, "other": 1}


def test_whose_death_counts_is_told_with_its_series(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    at_end: list[object] = []
    monkeypatch.setattr(process, "_shared", SimpleNamespace(expect_farewell=told.append))
    monkeypatch.setattr(process, "atexit", SimpleNamespace(register=at_end.append))
    expect_farewell("engine", "pico")
    assert told == [PROCESS_DEATHS.key("pico", "engine")]
    assert at_end == [process.farewell]


def test_an_exporter_ends_when_it_was_alone_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who comes meanwhile begins its time anew."""
    now, looks = [100.0], [True, False, False, True, *[False] * 9]

    class Shared:
        path = tmp_path

        def alive(self) -> bool:
            return looks.pop(0)

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout == exporter.CHECK_S
            now[0] += 2
            return False

    monkeypatch.setattr(exporter, "time", SimpleNamespace(monotonic=lambda: now[0]))
    exporter.wait_for_end(Stop(), Shared(), 5.0, lambda: False)  # type: ignore[arg-type]
    assert len(looks) == 5  # alone at its fifth look, and for 6 s at its eighth


def test_whoever_keeps_an_exporter_or_a_probe_may_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_keep", lambda *_: None)
    assert keeper.keep_exporter(tmp_path, "127.0.0.1", 0).daemon
    probe = Probe(tmp_path, period_s=60.0)
    probe.close()
    assert probe._thread.daemon
