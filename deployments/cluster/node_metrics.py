"""Where the processes of one Ray node keep their metrics, and the exporter that they keep alive together."""

from __future__ import annotations

import contextlib
from pathlib import Path

import ray

import monitoring
from deployments.cluster.node_watch import raylet
from deployments.settings import Settings
from monitoring.front import Front, tell
from monitoring.keeper import keep_exporter

TARGETS = "targets"
"""Below `metrics_dir`: one file a node for Prometheus' file_sd."""


def node_directory(metrics_dir: Path | None) -> Path | None:
    """This node's part of `metrics_dir`: several nodes may share a machine, and its file system.

    None where none is configured.
    """
    if metrics_dir is None:
        return None
    return metrics_dir / f"node-{ray.get_runtime_context().get_node_id()[:12]}"


def record_on_this_node(settings: Settings) -> Path | None:
    """Keep this process's metrics with those of its node, and see to the node's exporter. Returns the directory."""
    directory = node_directory(settings.metrics_dir)
    monitoring.init(directory)
    if directory is not None and settings.metrics_port is not None:
        assert settings.metrics_dir is not None
        targets = settings.metrics_dir / TARGETS
        keep_exporter(directory, settings.host, settings.metrics_port, targets, ray_target(), node_pid=raylet())
    return directory


def tell_front(settings: Settings) -> None:
    """Let this node's exporter know where clients reach an ingress of the node, so that it asks there as they do."""
    if (directory := node_directory(settings.metrics_dir)) is not None:
        with contextlib.suppress(OSError):  # a full disk; it serves all the same
            tell(directory, Front(settings.host, settings.port, settings.certificate is not None, settings.model_id))


def ray_target() -> dict[str, str]:
    """Where this node's Ray shows its own series, `ray_serve_*` among them, if it does."""
    node = ray.get_runtime_context().get_node_id()
    for known in ray.nodes():
        if known["NodeID"] == node and known["MetricsExportPort"] > 0:
            return {"ray": f"{known['NodeManagerAddress']}:{known['MetricsExportPort']}"}
    return {}
