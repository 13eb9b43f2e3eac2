"""The Serve application.

`serve run deployments.app:build model=nano tensor_parallel_size=2` gives settings as arguments, and so does the `args`
of a file for `serve deploy`. `serve build` takes no builders: `serve build deployments.app:app` writes such a file for
the settings of the environment.
"""

# No `from __future__ import annotations`: Serve looks at the annotation of `build` to make its argument.

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

import monitoring
from deployments.cluster.autoscaling import autoscaling_config
from deployments.cluster.counter_actor import ActorBook
from deployments.cluster.node_logs import configure_logs
from deployments.cluster.node_metrics import record_on_this_node, tell_front
from deployments.cluster.node_watch import on_node_end
from deployments.cluster.proxy import guards
from deployments.cluster.roster import Roster
from deployments.http import arrival
from deployments.http.accounts import Accounts
from deployments.http.door import Access
from deployments.http.handle_backend import HandleBackend
from deployments.http.heartbeat import Heartbeat
from deployments.http.resuming_backend import ResumingBackend
from deployments.labels import declared_labels
from deployments.replica.replica import TRACING_STOP_S, EngineReplica, keep_to_loopback
from deployments.settings import Settings
from deployments.teams.counting import Counters
from deployments.teams.local_counters import LocalCounters
from deployments.teams.shared_counters import SharedCounters
from deployments.teams.unbooked import Unbooked
from model.config import ConfigError
from monitoring import IngressMetrics, logs, tracing

if TYPE_CHECKING:
    from fastapi import FastAPI

APP_NAME = "starcoder"
ENGINE = "engine"
INGRESS = "ingress"

REPLICA_CPUS = 0.1
INGRESS_CPUS = 0.1

INGRESS_CHECK_PERIOD_S = 1.0
"""Only when it asks an ingress does Serve see that it has died: clients of the only one wait for that."""

# The engine's own queue bounds what is in flight, in sequences; Serve's limit a handle must never come first.
MAX_ONGOING_REQUESTS = 100_000

ROUTER = "deployments.cluster.routing.PrefixRouter"


@serve.ingress()
class Ingress:
    """The HTTP front: dialects, validation, tokenizing. Holds no state, so any number of replicas will do."""

    async def __init__(self, settings: Settings, engine: DeploymentHandle) -> None:  # type: ignore[misc]
        keep_to_loopback()
        self._metrics_directory = record_on_this_node(settings)
        tell_front(settings)
        replica_id = serve.get_replica_context().replica_id
        configure_logs(settings, process="ingress", replica=replica_id.unique_id)
        instance = {"instance.id": replica_id.to_full_id_str().rpartition("::")[2]}
        self._tracing = tracing.init(settings.otlp_endpoint, settings.trace_sample_ratio, **instance)
        if settings.log_text:
            logs.event("log_text.enabled", "prompts and completions are written to this log", level=logging.WARNING)
        self._settings = settings
        self._engine = engine

    async def __serve_build_asgi_app__(self) -> "FastAPI":
        from deployments.attribution.backend import Attributor
        from deployments.ingress import create_app
        from model.checkpoint.hub import model_card, resolve_checkpoint
        from model.text.tokenizer import Tokenizer

        def load() -> tuple[Tokenizer, str | None, Attributor | None]:
            checkpoint = resolve_checkpoint(self._settings.model, self._settings.revision)
            wanted = self._settings.attribution
            attributor = None if wanted.index is None else Attributor.open(wanted.index, wanted.block)
            return Tokenizer.from_checkpoint(checkpoint), model_card(checkpoint), attributor

        loading = asyncio.gather(asyncio.to_thread(load), asyncio.to_thread(declared_labels))
        (tokenizer, card, self._attributor), labels = await loading
        settings = self._settings
        metrics = IngressMetrics(settings.model_id, declared=labels)
        engines = HandleBackend(
            self._engine,
            settings.resume_timeout_s,
            settings.max_queued_requests,
            settings.step_timeout_s,
            metrics,
            members=Roster(APP_NAME, ENGINE, INGRESS, serve.get_replica_context().replica_id.unique_id).members,
        )
        on_node_end(engines.lose_node)
        on_node_end(monitoring.farewell)
        resuming = ResumingBackend(engines, settings.resume_timeout_s, random.Random(settings.seed), metrics)
        unbooked = Unbooked()
        self._accounts = Accounts(settings.teams, settings.model_id, counters(settings, unbooked), metrics, unbooked)
        await self._accounts.start()
        self._heartbeat = Heartbeat(metrics.turned)
        monitoring.expect_farewell("ingress", settings.model_id)
        return create_app(
            backend=self._accounts.metered(resuming),
            tokenizer=tokenizer,
            model_card=card,
            limits=self._settings.api,
            metrics=metrics,
            metrics_directory=self._metrics_directory,
            answer_request_id=False,  # the proxy does
            tracing=self._tracing,
            log_text=self._settings.log_text,
            access=Access(self._settings.host, self._settings.allowed_hosts, self._settings.allowed_origins),
            gatekeeper=self._accounts.directory,
            administration=self._accounts.administration,
            accepted=self._accounts.accepted,
            people=self._accounts.people,
            arrived_ago=arrival.seconds_ago if guards() else None,
            attributor=self._attributor,
        )

    async def __del__(self) -> None:
        """Serve awaits this when the replica stops."""
        if (heartbeat := getattr(self, "_heartbeat", None)) is not None:
            heartbeat.stop()
        monitoring.farewell()
        if (accounts := getattr(self, "_accounts", None)) is not None:
            await accounts.stop()
        if (attributor := getattr(self, "_attributor", None)) is not None:
            await asyncio.to_thread(attributor.close)
        if (own := getattr(self, "_tracing", None)) is not None:
            await asyncio.to_thread(own.shutdown, TRACING_STOP_S)


def counters(settings: Settings, unbooked: Unbooked) -> Counters:
    """Of limits and budgets: one book for all ingress processes."""
    if settings.ingress_replicas == 1:
        return LocalCounters()
    return SharedCounters(ActorBook(), settings.ingress_replicas, unbooked=unbooked.costs)


def build(args: Settings) -> serve.Application:
    """The application for these settings. Raises ConfigError, and ValidationError for what is no setting.

    `device: auto` takes GPUs where the running Ray cluster has them; say `cuda` where GPU nodes are started on demand.
    """
    return application(args)  # Serve takes builders of one parameter only


def application(
    args: Settings, engine_class: type[EngineReplica] = EngineReplica, router: str = ROUTER
) -> serve.Application:
    """`build`, around another engine, such as a subclass whose ranks are other ones, or with another router.

    router: path of a class that is configured like `PrefixRouter`.
    """
    engine = serve.deployment(
        engine_class,
        name=ENGINE,
        ray_actor_options={"num_cpus": REPLICA_CPUS},
        placement_group_bundles=bundles(args, cluster_gpus()),
        placement_group_strategy="STRICT_PACK",
        health_check_period_s=args.health_check_period_s,
        # Of its engine a replica judges itself. This is for one that cannot answer at all; Serve waits for the third.
        health_check_timeout_s=2 * args.health_check_period_s,
        max_constructor_retry_count=2,
        request_router_config=RequestRouterConfig(
            request_router_class=router,
            request_router_kwargs={
                "block_size": args.block_size,
                "imbalance": args.routing_imbalance,
                "model": args.model_id,
            },
        ),
        **common(args),
        **scale(args),
    )
    ingress = serve.deployment(
        Ingress,
        name=INGRESS,
        num_replicas=args.ingress_replicas,
        ray_actor_options={"num_cpus": INGRESS_CPUS},
        health_check_period_s=INGRESS_CHECK_PERIOD_S,
        **common(args),
    )
    return ingress.bind(args, engine.bind(args))


def __getattr__(name: str) -> Any:
    """`app`: the application for the environment's settings, built when somebody asks for it."""
    if name == "app":
        return build(Settings())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def bundles(settings: Settings, gpus: float) -> list[dict[str, float]]:
    """Ray resources of one engine: first the replica's, then one rank's each. gpus: what the cluster has."""
    size = settings.tensor_parallel_size
    rank = {"CPU": settings.cpus_per_rank}
    if settings.device == "cuda" or (settings.device == "auto" and gpus >= 1):
        if settings.device == "auto" and gpus < size:
            raise ConfigError(
                f"tensor_parallel_size={size}, but the cluster has {gpus:g} GPU(s); "
                "device=cpu runs the ranks as CPU processes"
            )
        rank["GPU"] = 1.0
    return [{"CPU": REPLICA_CPUS}] + [dict(rank) for _ in range(size)]


def cluster_gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0)) if ray.is_initialized() else 0.0


def cpus_needed(settings: Settings) -> float:
    """CPUs that Ray must know of for every replica to be placed."""
    engine = REPLICA_CPUS + settings.tensor_parallel_size * settings.cpus_per_rank
    return settings.most_replicas * engine + settings.ingress_replicas * INGRESS_CPUS


def common(settings: Settings) -> dict[str, Any]:
    return {
        "max_ongoing_requests": MAX_ONGOING_REQUESTS,
        "graceful_shutdown_timeout_s": settings.drain_timeout_s,
        "graceful_shutdown_wait_loop_s": 0.2,
        "logging_config": logging_config(settings),
    }


def logging_config(settings: Settings) -> LoggingConfig:
    """Of Serve's own messages. Its access log would say twice, and with less, what our line of a request says."""
    level = "WARNING" if settings.log_level == "info" else settings.log_level.upper()
    encoding = "TEXT" if settings.log_format == "text" else "JSON"
    return LoggingConfig(log_level=level, encoding=encoding, enable_access_log=settings.log_level == "debug")


def scale(settings: Settings) -> dict[str, Any]:
    scaling = autoscaling_config(settings)
    return {"num_replicas": settings.min_replicas} if scaling is None else {"autoscaling_config": scaling}
