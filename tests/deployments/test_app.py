"""The Serve application as Serve's own tools see it, without a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve import Application

from deployments import app
from deployments.replica.replica import EngineReplica
from deployments.settings import Settings
from model.config import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("device", "gpus", "rank"),
    [
        ("cpu", 8.0, {"CPU": 2.0}),
        ("auto", 0.0, {"CPU": 2.0}),
        ("auto", 4.0, {"CPU": 2.0, "GPU": 1.0}),
        ("cuda", 0.0, {"CPU": 2.0, "GPU": 1.0}),
    ],
)
def test_one_bundle_for_the_replica_and_one_a_rank(device: Any, gpus: float, rank: dict[str, float]) -> None:
    """`device=cuda` asks for GPUs that are not there yet: a cluster may start them on demand."""
    settings = Settings(device=device, tensor_parallel_size=2, cpus_per_rank=2)
    assert app.bundles(settings, gpus) == [{"CPU": app.REPLICA_CPUS}, rank, rank]


def test_fewer_gpus_than_ranks() -> None:
    with pytest.raises(ConfigError, match="has 1 GPU"):
        app.bundles(Settings(tensor_parallel_size=2), 1.0)


def test_local_ray_is_told_of_enough_cpus() -> None:
    settings = Settings(tensor_parallel_size=2, min_replicas=1, max_replicas=3)
    needed = sum(bundle["CPU"] for bundle in app.bundles(settings, 0)) * 3 + app.INGRESS_CPUS
    assert app.cpus_needed(settings) == pytest.approx(needed)


def test_serve_calls_the_builder_with_the_arguments_it_was_given() -> None:
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as call

    built = call(app.build, {"served_model_name": "x", "min_replicas": "2", "device": "cpu"})
    assert built._bound_deployment.name == app.INGRESS
    with pytest.raises(ValidationError, match="modle"):
        call(app.build, {"modle": "x"})


def test_another_engine_can_stand_behind_the_ingress() -> None:
    class Other(EngineReplica):
        pass

    built = app.application(Settings(device="cpu"), Other)
    (engine,) = [of for of in built._bound_deployment.init_args if isinstance(of, Application)]
    assert engine._bound_deployment.func_or_class is Other
    assert engine._bound_deployment.name == app.ENGINE


def test_serve_build_writes_the_deployments(tmp_path: Path) -> None:
    file = tmp_path / "app.yaml"
    settings = {"STARCODER_TENSOR_PARALLEL_SIZE": "2", "STARCODER_DEVICE": "cuda", "STARCODER_MAX_REPLICAS": "3"}
    subprocess.run(
        [sys.executable, "-m", "ray.serve.scripts", "build", "deployments.app:app", "-o", str(file)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
        check=True,
        capture_output=True,
        timeout=120,
    )
    (application,) = yaml.safe_load(file.read_text())["applications"]
    assert application["import_path"] == "deployments.app:app"
    engine, ingress = sorted(application["deployments"], key=lambda deployment: deployment["name"])
    assert engine["placement_group_bundles"] == [{"CPU": 0.1}, *[{"CPU": 1.0, "GPU": 1.0}] * 2]
    assert engine["placement_group_strategy"] == "STRICT_PACK"
    assert engine["autoscaling_config"]["max_replicas"] == 3
    assert ingress["num_replicas"] == 1
