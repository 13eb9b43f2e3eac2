"""What is generated is what its sources say today, and Ray Serve takes it."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.app import bundles
from deployments.cluster import haproxy, proxy, proxy_settings
from deployments.command import download
from deployments.settings import Settings
from deployments.variables import check_environment
from k8s import generate, memory
from model.checkpoint.family import known_shape
from model.checkpoint.memory import parameter_bytes
from tests.k8s.conftest import K8S, OVERLAYS
from tests.support.kuberay import Pod
from tests.support.kustomize import Manifest

COMMAND = f"/opt/starcoder/bin/{haproxy.COMMAND}"
"""Of the image."""

OVERLAYS_WITH_SETTINGS = sorted(path.parent.name for path in K8S.glob("overlays/*/settings.yaml"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("STARCODER_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def settings(overlay: str) -> Settings:
    return generate.overlay_settings(K8S / "overlays" / overlay)[0]


def worker(pods: list[Pod]) -> Pod:
    return next(pod for pod in pods if pod.role == "worker")


def test_every_overlay_has_settings() -> None:
    assert OVERLAYS_WITH_SETTINGS == OVERLAYS


def test_nothing_has_drifted() -> None:
    assert generate.stale(generate.documents()) == [], "run: python -m k8s.generate"


def test_drift_is_found(tmp_path: Path) -> None:
    wanted = {tmp_path / "a.yaml": "a\n", tmp_path / "b.yaml": "b\n"}
    (tmp_path / "a.yaml").write_text("changed\n")
    (tmp_path / "left.yaml").write_text("its source is gone\n")
    assert set(generate.stale(wanted)) == {tmp_path / name for name in ("a.yaml", "b.yaml", "left.yaml")}


def test_ray_serve_takes_the_configuration(serve_config: dict[str, Any]) -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(serve_config)
    assert schema.http_options.host == "0.0.0.0"
    [application] = schema.applications
    assert application.name == "starcoder"
    unknown = set(serve_config) - set(ServeDeploySchema.model_fields)
    assert not unknown


def test_the_application_gets_the_settings_of_the_overlay(serve_config: dict[str, Any], settings: Settings) -> None:
    """As Serve does it: the builder's annotation makes the argument of `args`."""
    import typing

    from deployments.app import build

    [application] = serve_config["applications"]
    module, _, name = application["import_path"].partition(":")
    assert (module, name) == (build.__module__, build.__name__)
    kind = typing.get_type_hints(build)["args"]
    assert kind(**application["args"]) == settings


def test_the_proxies_of_workers_know_the_settings(settings: Settings, pods: list[Pod]) -> None:
    """Serve gives them none: what they keep to is in their environment, each variable once."""
    [container] = [c for c in worker(pods).spec["containers"] if c["name"] == "ray-worker"]
    names = [variable["name"] for variable in container["env"]]
    assert len(names) == len(set(names))
    given = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert proxy.environment(settings, haproxy.environment(COMMAND)).items() <= given.items()


def test_what_is_in_the_environment_are_settings(pods: list[Pod]) -> None:
    for pod in pods:
        for container in pod.containers:
            given = {v["name"]: v.get("value", "postgresql+asyncpg://u:p@h/n") for v in container.get("env", [])}
            check_environment(given, Settings.model_fields)


def test_nobody_gets_in_without_a_key(
    serve_config: dict[str, Any], pods: list[Pod], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application is built on the head or a worker, by what these find in their environment."""
    [application] = serve_config["applications"]
    for role, name in (("head", "ray-head"), ("worker", "ray-worker")):
        [container] = [c for pod in pods if pod.role == role for c in pod.spec["containers"] if c["name"] == name]
        for variable in container["env"]:
            if variable["name"].startswith("STARCODER_TEAMS__"):
                secret = "postgresql+asyncpg://somebody:secret@there/starcoder"
                monkeypatch.setenv(variable["name"], variable.get("value", secret))
        teams = Settings(**application["args"]).teams
        assert teams.required
        assert teams.database.startswith("postgresql+asyncpg://")
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert str(teams.pepper_file.parent) in mounts  # type: ignore[union-attr]
        assert teams.journal_directory is not None


def test_haproxy_stands_in_front_on_every_node(pods: list[Pod]) -> None:
    """Serve's controller, on the head, and what starts HAProxy on each node must agree on it."""
    for role, name in (("head", "ray-head"), ("worker", "ray-worker")):
        [container] = [c for pod in pods if pod.role == role for c in pod.spec["containers"] if c["name"] == name]
        given = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert haproxy.environment(COMMAND).items() <= given.items()


def test_serves_own_proxy_is_the_way_out() -> None:
    operations = generate.rayservice_patch(Settings(proxy="python"), {})
    found = [one["value"] for one in operations if "/env/" in one["path"]]
    assert [one["value"] for one in found if one["name"] == haproxy.ENABLE] == ["0", "0"]


def test_the_image_has_the_command() -> None:
    dockerfile = (K8S.parent / "Dockerfile").read_text()
    assert f"python -m venv {Path(COMMAND).parent.parent}" in dockerfile


def test_a_setting_that_is_not_given_is_in_no_variable_of_a_proxy() -> None:
    operations = generate.rayservice_patch(Settings(metrics_dir="/m"), {})
    variables = [one["value"] for one in operations if "/env/" in one["path"]]
    names = [variable["name"] for variable in variables]
    assert "STARCODER_METRICS_DIR" in names
    assert "STARCODER_LOG_FILE" not in names
    assert len(set(names) - {haproxy.ENABLE}) == len(proxy_settings.VARIABLES)


def test_a_worker_has_room_for_exactly_one_engine(settings: Settings, pods: list[Pod]) -> None:
    limits = worker(pods).spec["containers"][0]["resources"]["limits"]
    engine = bundles(settings, gpus=0)
    cpus = sum(bundle["CPU"] for bundle in engine)
    assert cpus <= int(limits["cpu"]) < 2 * cpus
    assert sum(bundle.get("GPU", 0) for bundle in engine) == limits.get("nvidia.com/gpu", 0)
    if settings.device == "cuda":
        assert limits["nvidia.com/gpu"] == settings.tensor_parallel_size


def test_a_worker_asks_for_the_memory_that_its_model_needs(settings: Settings, pods: list[Pod]) -> None:
    spec = worker(pods).spec
    [volume] = [v for v in spec["volumes"] if v["name"] == "shared-memory"]
    assert volume["emptyDir"]["sizeLimit"] == f"{memory.shared_mebibytes(settings)}Mi"
    resources = spec["containers"][0]["resources"]
    asked = f"{memory.worker_gibibytes(settings)}Gi"
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == asked


@pytest.mark.parametrize("name", ["bigcode/starcoder", "bigcode/starcoderbase-7b", "bigcode/starcoderbase-1b"])
def test_memory_follows_the_model(name: str) -> None:
    settings = Settings(model=name, device="cuda")
    shape = known_shape(name)
    assert shape is not None
    beside = memory.WORKER + memory.INGRESS + memory.RANK["cuda"] + memory.shared_mebibytes(settings) / 1024
    asked = memory.worker_gibibytes(settings)
    assert asked is not None
    assert 0 <= asked - parameter_bytes(shape, 0, 1, 2) / memory.GIB - beside < 1
    wider = memory.worker_gibibytes(Settings(model=name, device="cuda", dtype="float32"))
    assert wider is not None
    assert round(wider - asked - parameter_bytes(shape, 0, 1, 2) / memory.GIB) in (0, 1)


def test_a_draft_model_is_downloaded_too_and_has_room() -> None:
    alone = Settings(model="bigcode/starcoder", device="cuda")
    small = "bigcode/starcoderbase-1b"
    settings = Settings(model="bigcode/starcoder", device="cuda", draft_model=small, draft_revision="main")
    shape = known_shape(small)
    assert shape is not None
    more = parameter_bytes(shape, 0, 1, 2) / memory.GIB
    asked, before = memory.worker_gibibytes(settings), memory.worker_gibibytes(alone)
    assert asked is not None
    assert before is not None
    assert abs(asked - before - more) < 1
    assert memory.worker_gibibytes(Settings(model="bigcode/starcoder", draft_model="/models/ours")) is None
    [job, wait] = generate.weights_patches(settings).values()
    arguments = job[0]["value"]
    assert arguments == wait[0]["value"]
    assert arguments == ["bigcode/starcoder", "--draft-model", small, "--draft-revision", "main"]
    options = download.parser().parse_args(arguments)
    assert (options.draft_model, options.draft_revision) == (small, "main")


def test_of_a_model_without_files_or_name_the_overlay_says_the_memory() -> None:
    unknown = Settings(model="/models/ours", device="cuda")
    assert memory.worker_gibibytes(unknown) is None
    assert not [one for one in generate.rayservice_patch(unknown, {}) if one["path"].endswith("/memory")]


def test_workers_for_every_engine_and_one_to_move_to(settings: Settings, rayservice: Manifest) -> None:
    [group] = rayservice["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == max(2, settings.min_replicas)
    assert group["maxReplicas"] > settings.most_replicas


def test_the_grace_period_is_longer_than_the_drain(settings: Settings, pods: list[Pod]) -> None:
    spec = worker(pods).spec
    command = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    seconds = float(command[command.index("--seconds") + 1])
    assert command[:3] == ["python", "-m", "deployments.command.drain"]
    assert settings.drain_timeout_s < seconds < spec["terminationGracePeriodSeconds"] <= 600
    assert math.isclose(seconds - generate.drain_seconds(settings), settings.drain_timeout_s, abs_tol=1)


def test_the_workers_share_metrics_where_the_settings_say(settings: Settings, pods: list[Pod]) -> None:
    pod = worker(pods)
    exporter = next(c for c in pod.containers if c["name"] == "metrics-exporter")
    assert exporter["args"][exporter["args"].index("--directory") + 1] == str(settings.metrics_dir)
    engine = pod.spec["containers"][0]
    volumes = {
        mount["name"]
        for container in (exporter, engine)
        for mount in container["volumeMounts"]
        if mount["mountPath"] == str(settings.metrics_dir) and not mount.get("readOnly")
    }
    [volume] = volumes
    assert "emptyDir" in next(v for v in pod.spec["volumes"] if v["name"] == volume)
    port = int(exporter["args"][exporter["args"].index("--port") + 1])
    assert {"name": "engine-metrics", "containerPort": port} in exporter["ports"]


def test_the_exporter_understands_its_arguments(pods: list[Pod], monkeypatch: pytest.MonkeyPatch) -> None:
    from monitoring import exporter

    class Started(Exception):
        pass

    def start(directory: Path, host: str, port: int, *_: object) -> None:
        raise Started(directory, host, port)

    monkeypatch.setattr(exporter, "NodeExporter", start)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    arguments = next(c for c in worker(pods).containers if c["name"] == "metrics-exporter")["args"]
    with pytest.raises(Started) as started:
        exporter.main(arguments)
    assert started.value.args == (Path("/var/run/starcoder/metrics"), "0.0.0.0", 9464)


def test_the_job_downloads_what_is_served(settings: Settings, pods: list[Pod]) -> None:
    jobs = [pod for pod in pods if pod.role == "weights"]
    if "/" not in settings.model:
        assert not jobs
        return
    [job] = jobs
    [container] = job.spec["containers"]
    assert container["command"] == ["starcoder", "download"]
    assert container["args"] == [settings.model, "--revision", settings.revision]
    engine = worker(pods).spec["containers"][0]
    wait = next(c for c in worker(pods).spec["initContainers"] if c["name"] == "wait-for-weights")
    assert wait["args"] == container["args"]
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in wait["env"]
    homes = {c["name"]: next(e["value"] for e in c["env"] if e["name"] == "HF_HOME") for c in (container, wait, engine)}
    assert len(set(homes.values())) == 1
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in engine["env"]
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} not in container["env"]


@pytest.mark.parametrize("overlay", ["prod"])
def test_workers_wait_until_the_weights_are_there(pods: list[Pod], tmp_path: Path) -> None:
    """The rendered command, with a `starcoder` that finds nothing twice."""
    wait = next(c for c in worker(pods).spec["initContainers"] if c["name"] == "wait-for-weights")
    log = tmp_path / "log"
    scripts = {"starcoder": f'echo "$@" >> {log}; test $(wc -l < {log}) -ge 3', "sleep": "true"}
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    command = [*wait["command"], *wait["args"]]
    result = subprocess.run(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout=120)
    assert result.returncode == 0
    assert log.read_text() == "download bigcode/starcoder --revision main\n" * 3


def test_production_fits_the_gpus_it_names() -> None:
    from model.checkpoint.family import known_shape
    from model.checkpoint.memory import plan
    from model.config import EngineConfig

    for overlay, gibibytes in (("prod", 40), ("prod-tp4", 24)):
        settings, _ = generate.overlay_settings(K8S / "overlays" / overlay)
        shape = known_shape(settings.model)
        assert shape is not None
        settings.check_model(shape)
        config = EngineConfig(model=settings.model, tensor_parallel_size=settings.tensor_parallel_size)
        assert plan(shape, config, gibibytes << 30, 2).longest_sequences > 20


def test_dashboards_become_config_maps_that_the_sidecar_finds(tmp_path: Path) -> None:
    source, target = tmp_path / "dashboards", tmp_path / "component"
    source.mkdir()
    board = json.dumps({"title": "Service", "panels": [{"title": "a: b # c  \n"}]}, indent=2) + "\n"
    (source / "service.json").write_text(board)
    documents = generate.dashboards_documents(source, target)
    config_map = yaml.safe_load(documents[target / "service.yaml"])
    assert config_map["data"] == {"service.json": board}
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert yaml.safe_load(documents[target / "kustomization.yaml"])["resources"] == ["service.yaml"]


def test_rule_files_become_rules_of_the_operator(tmp_path: Path) -> None:
    source, target = tmp_path / "rules", tmp_path / "component"
    source.mkdir()
    groups = [{"name": "g", "rules": [{"alert": "A", "expr": "up == 0", "for": "5m"}]}]
    (source / "alerts.yaml").write_text(yaml.safe_dump({"groups": groups}))
    documents = generate.rules_documents(source, target)
    rule = yaml.safe_load(documents[target / "alerts.yaml"])
    assert rule["kind"] == "PrometheusRule"
    assert rule["spec"]["groups"] == groups
