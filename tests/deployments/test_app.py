"""The Serve application as Serve's own tools see it, without a cluster."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
import yaml
from pydantic import ValidationError
from ray.serve import Application

from deployments import app
from deployments.replica.replica import EngineReplica
from deployments.settings import Settings
from deployments.teams.local_counters import LocalCounters
from deployments.teams.shared_counters import SharedCounters
from deployments.teams.unbooked import Unbooked
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


def test_gpus_that_suffice_exactly() -> None:
    assert app.bundles(Settings(tensor_parallel_size=2), 2.0)[1:] == [{"CPU": 1.0, "GPU": 1.0}] * 2
    assert app.bundles(Settings(tensor_parallel_size=1), 1.0)[1:] == [{"CPU": 1.0, "GPU": 1.0}]
    assert app.bundles(Settings(tensor_parallel_size=1), 0.5)[1:] == [{"CPU": 1.0}]


def test_a_cluster_is_asked_for_its_gpus_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.ray, "is_initialized", lambda: False)
    assert app.cluster_gpus() == 0
    monkeypatch.setattr(app.ray, "is_initialized", lambda: True)
    for resources, gpus in (({"CPU": 4.0}, 0.0), ({"CPU": 4.0, "GPU": 3.0}, 3.0)):
        monkeypatch.setattr(app.ray, "cluster_resources", lambda resources=resources: resources)
        assert app.cluster_gpus() == gpus


@pytest.mark.parametrize(
    ("level", "form", "said"),
    [
        ("info", "auto", ("WARNING", "JSON", False)),
        ("info", "text", ("WARNING", "TEXT", False)),
        ("debug", "json", ("DEBUG", "JSON", True)),
        ("error", "json", ("ERROR", "JSON", False)),
        ("warning", "auto", ("WARNING", "JSON", False)),
    ],
)
def test_serve_says_of_itself_what_our_log_does_not(level: Any, form: Any, said: tuple[str, str, bool]) -> None:
    config = app.logging_config(Settings(log_level=level, log_format=form))
    assert (config.log_level, config.encoding, config.enable_access_log) == said


def test_what_serve_is_told_of_both_deployments() -> None:
    settings = Settings(
        device="cpu",
        min_replicas=2,
        ingress_replicas=3,
        drain_timeout_s=7,
        block_size=32,
        routing_imbalance=5,
        served_model_name="x",
        health_check_period_s=4,
    )
    ingress = app.build(settings)._bound_deployment
    (given, (engine,)) = ingress.init_args[0], [of for of in ingress.init_args if isinstance(of, Application)]
    engine = engine._bound_deployment
    assert (given, engine.init_args) == (settings, (settings,))
    assert (engine.name, engine.num_replicas, engine.func_or_class) == (app.ENGINE, 2, EngineReplica)
    assert (ingress.name, ingress.num_replicas) == (app.INGRESS, 3)
    assert ingress._deployment_config.health_check_period_s == 1
    for deployment in (engine, ingress):
        told = deployment._deployment_config
        assert told.max_ongoing_requests == 100_000
        assert (told.graceful_shutdown_timeout_s, told.graceful_shutdown_wait_loop_s) == (7, 0.2)
        assert told.logging_config["log_level"] == "WARNING"
        assert deployment.ray_actor_options["num_cpus"] == 0.1
    told = engine._deployment_config
    assert (told.health_check_period_s, told.health_check_timeout_s, told.max_constructor_retry_count) == (4, 8, 2)
    router = told.request_router_config
    assert router.request_router_class == "deployments.cluster.routing.PrefixRouter"
    assert router.request_router_kwargs == {"block_size": 32, "imbalance": 5, "model": "x"}
    assert engine._replica_config.placement_group_bundles == [{"CPU": 0.1}, {"CPU": 1.0}]
    assert engine._replica_config.placement_group_strategy == "STRICT_PACK"


INGRESS: Any = app.Ingress.__mro__[1]
"""Without what Ray puts around it."""


class Made:
    """What an ingress makes of its settings, and what it is asked in the end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.of: dict[str, Any] = {}
        self.ended: list[str] = []
        self.labels = object()
        self.metrics = Mock()
        context = Mock(replica_id=Mock(unique_id="r"))
        monkeypatch.setattr(app.serve, "get_replica_context", lambda: context)
        monkeypatch.setattr(app, "declared_labels", lambda: self.labels)
        monkeypatch.setattr(app, "IngressMetrics", self._keep("metrics", self.metrics))
        monkeypatch.setattr(app, "Roster", self._keep("roster", Mock(members="members")))
        monkeypatch.setattr(app, "HandleBackend", self._keep("engines", Mock(lose_node="lose_node")))
        monkeypatch.setattr(app, "ResumingBackend", self._keep("resuming", "resuming"))
        monkeypatch.setattr(app, "Heartbeat", self._keep("heartbeat", Mock(stop=self._end("heartbeat"))))
        monkeypatch.setattr(app, "Accounts", self._keep("accounts", self._accounts()))
        monkeypatch.setattr(app, "guards", lambda: False)
        monkeypatch.setattr(app, "on_node_end", lambda call: self.of.setdefault("node end", []).append(call))
        monkeypatch.setattr(app.monitoring, "expect_farewell", lambda *given: self.of.update(farewell=given))
        monkeypatch.setattr(app.monitoring, "farewell", self._end("farewell"))
        monkeypatch.setattr("deployments.ingress.create_app", lambda **given: given)
        self.ingress: Any = SimpleNamespace()  # Ray's own class around it would be asked to end when it is forgotten
        self.ingress._settings = Settings(
            served_model_name="x",
            seed=3,
            resume_timeout_s=4,
            max_queued_requests=5,
            step_timeout_s=6,
            allowed_hosts="a.test",
            allowed_origins="https://b.test",
            log_text=True,
        )
        self.ingress._engine = "engine"
        self.ingress._metrics_directory = directory
        self.ingress._tracing = Mock(shutdown=self._end("tracing"))

    def _accounts(self) -> Any:
        return Mock(
            start=AsyncMock(),
            stop=AsyncMock(side_effect=self._end("accounts")),
            metered=lambda backend: ("metered", backend),
            directory="directory",
            administration="administration",
            accepted="accepted",
            people="people",
        )

    def _keep(self, name: str, made: Any) -> Any:
        def make(*given: Any, **named: Any) -> Any:
            self.of[name] = (*given, *named.items())
            return made

        return make

    def _end(self, name: str) -> Any:
        return lambda *_: self.ended.append(name)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Made:
    return Made(monkeypatch, tmp_path)


async def test_an_ingress_is_made_of_what_the_settings_say(made: Made) -> None:
    settings = made.ingress._settings
    given = await INGRESS.__serve_build_asgi_app__(made.ingress)
    assert made.of["metrics"] == ("x", ("declared", made.labels))
    assert made.of["roster"] == ("starcoder", "engine", "ingress", "r")
    assert made.of["engines"] == ("engine", 4, 5, 6, made.metrics, ("members", "members"))
    assert made.of["node end"] == ["lose_node", app.monitoring.farewell]
    assert made.of["farewell"] == ("ingress", "x")
    engines, seconds, draws, metrics = made.of["resuming"]
    assert (engines.lose_node, seconds, metrics) == ("lose_node", 4, made.metrics)
    assert draws.random() == random.Random(3).random()
    teams, model, counters, metrics, unbooked = made.of["accounts"]
    assert (teams, model, metrics) == (settings.teams, "x", made.metrics)
    assert (type(counters), type(unbooked)) == (LocalCounters, Unbooked)
    assert made.of["heartbeat"] == (made.metrics.turned,)
    assert given.pop("tokenizer").vocab_size > 0
    assert "StarCoder" in given.pop("model_card")
    access = given.pop("access")
    assert (access.bound_to, access.hosts, access.origins) == (settings.host, ("a.test",), ("https://b.test",))
    assert given == {
        "backend": ("metered", "resuming"),
        "limits": settings.api,
        "metrics": made.metrics,
        "metrics_directory": made.ingress._metrics_directory,
        "answer_request_id": False,
        "tracing": made.ingress._tracing,
        "log_text": True,
        "gatekeeper": "directory",
        "administration": "administration",
        "accepted": "accepted",
        "people": "people",
        "arrived_ago": None,
        "attributor": None,
    }


async def test_an_ingress_that_stops_ends_what_it_has_begun(made: Made) -> None:
    await INGRESS.__serve_build_asgi_app__(made.ingress)
    made.ingress._attributor = Mock(close=made._end("attributor"))
    await INGRESS.__del__(made.ingress)
    assert made.ended == ["heartbeat", "farewell", "accounts", "attributor", "tracing"]


async def test_one_that_has_begun_nothing_ends_too(made: Made) -> None:
    del made.ingress._tracing
    await INGRESS.__del__(made.ingress)
    assert made.ended == ["farewell"]


def test_one_ingress_counts_by_itself_and_several_in_one_book() -> None:
    unbooked = Unbooked()
    assert isinstance(app.counters(Settings(), unbooked), LocalCounters)
    assert isinstance(app.counters(Settings(ingress_replicas=2), unbooked), SharedCounters)


def test_the_module_has_an_application_for_the_environment_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARCODER_SERVED_MODEL_NAME", "of-the-environment")
    monkeypatch.setenv("STARCODER_DEVICE", "cpu")
    assert app.app._bound_deployment.init_args[0].model_id == "of-the-environment"
    with pytest.raises(AttributeError, match=r"deployments\.app.*'other'"):
        _ = app.other


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
