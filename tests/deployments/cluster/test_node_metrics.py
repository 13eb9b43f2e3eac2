"""What the processes of a node tell its exporter, and where that finds Ray's own series."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import monitoring
from deployments.cluster import node_metrics
from deployments.settings import Settings
from monitoring.front import told

NODE = "0123456789abcdef"


def node(id: str, port: int, address: str = "10.0.0.1") -> dict[str, Any]:
    return {"NodeID": id, "MetricsExportPort": port, "NodeManagerAddress": address}


@pytest.fixture(autouse=True)
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Of the cluster."""
    found = [node("other", 9, "10.0.0.2"), node(NODE, 8080)]
    context = SimpleNamespace(get_node_id=lambda: NODE)
    monkeypatch.setattr(node_metrics, "ray", SimpleNamespace(get_runtime_context=lambda: context, nodes=lambda: found))
    yield found
    monitoring.init(None)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What exporters were asked for."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(node_metrics, "keep_exporter", lambda *given, node_pid: asked.append((*given, node_pid)))
    monkeypatch.setattr(node_metrics, "raylet", lambda: 17)
    return asked


def test_rays_series_are_where_this_node_shows_them(nodes: list[dict[str, Any]]) -> None:
    assert node_metrics.ray_target() == {"ray": "10.0.0.1:8080"}
    for port in (0, -1):
        nodes[1]["MetricsExportPort"] = port
        assert node_metrics.ray_target() == {}
    nodes[1:] = [node(NODE, 1)]
    assert node_metrics.ray_target() == {"ray": "10.0.0.1:1"}


def test_each_node_has_a_directory_and_an_exporter(tmp_path: Path, kept: list[tuple[Any, ...]]) -> None:
    directory = tmp_path / "node-0123456789ab"
    assert node_metrics.record_on_this_node(Settings(metrics_dir=tmp_path, metrics_port=9464)) == directory
    assert kept == [(directory, "127.0.0.1", 9464, tmp_path / "targets", {"ray": "10.0.0.1:8080"}, 17)]
    assert node_metrics.record_on_this_node(Settings(metrics_dir=tmp_path, metrics_port=None)) == directory
    assert node_metrics.record_on_this_node(Settings(metrics_dir=None, metrics_port=9464)) is None
    assert len(kept) == 1


def test_the_exporter_knows_where_clients_ask(tmp_path: Path) -> None:
    directory = node_metrics.node_directory(tmp_path)
    assert directory is not None
    node_metrics.tell_front(Settings(metrics_dir=tmp_path, port=8123))  # which cannot be written, and stops nobody
    directory.mkdir()
    certificate = {"ssl_certfile": Path("/a.crt"), "ssl_keyfile": Path("/a.key")}
    for given, tls in (({}, False), (certificate, True)):
        node_metrics.tell_front(Settings(metrics_dir=tmp_path, host="0.0.0.0", port=8123, **given))  # type: ignore[arg-type]
        front = told(directory)
        assert front is not None
        assert (front.host, front.port, front.tls, front.model) == ("0.0.0.0", 8123, tls, "nano")
    node_metrics.tell_front(Settings(metrics_dir=None))
