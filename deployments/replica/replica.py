"""The Serve deployment of one engine: starts its ranks, answers for it, and dies with it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from ray import serve
from ray.util import get_current_placement_group, get_node_ip_address

import monitoring
from deployments.cluster import progress, succession
from deployments.cluster.node_logs import configure_logs
from deployments.cluster.node_metrics import record_on_this_node
from deployments.cluster.node_watch import on_node_end
from deployments.errors import ServeError, unwrap
from deployments.health import HealthReport, Question
from deployments.labels import declared_labels
from deployments.protocol import Attach, Delta, GenerationRequest, ModelInfo, Receipt
from deployments.replica.admission import Admission
from deployments.replica.delivery import Deliveries, Item
from deployments.replica.demand import Demand
from deployments.replica.group import RankGroup, RankProcess
from deployments.replica.seldom import seldom
from deployments.replica.service import EngineService
from deployments.settings import Settings
from model.checkpoint.draft import Draft, find_draft
from model.checkpoint.hub import resolve_checkpoint
from model.config import EngineConfig, ModelConfig
from model.limits import StepLimits
from model.machine import available_cores
from model.process.client import EngineClient
from model.statistics import ForwardPath
from model.text.tokenizer import Tokenizer
from monitoring import logs, tracing
from monitoring.version import package_version

FLUSH_S = 2.0
"""How long open streams have to take the error away before the process ends."""

HANDOVER_S = 0.3

TOLD_S = 1.0
"""How long a dead engine's replica waits to hear which rank it was; a rank that hangs never says."""

ONE_THREAD_PARAMETERS = 40_000_000
"""A smaller model's products end before a second thread pays; threads that spin for each other cost milliseconds."""

encoder = msgspec.msgpack.Encoder()

STOP_S = 10.0
TRACING_STOP_S = 2.0


class EngineReplica:
    """Answers `deployments.protocol.Backend`'s calls with one tensor-parallel engine.

    A `ServeError` is returned, or yielded last, and raised by the handle's side: Serve would log a traceback for
    every one that is raised here, and being overloaded is no reason to write more logs.

    rank_class: of its ranks' processes. A benchmark of what is around the engine puts another one there.
    """

    rank_class: type[RankProcess] = RankProcess

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]
        # With num_gpus=0 Ray shows this process every GPU; it must never touch one.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        keep_to_loopback()
        started_at = time.monotonic()
        replica_id = serve.get_replica_context().replica_id
        self._actor_name, self._name = replica_id.to_full_id_str(), replica_id.unique_id
        configure_logs(settings, process="engine", replica=self._name)
        self._tracing = tracing.init(settings.otlp_endpoint, settings.trace_sample_ratio, **self._instance())
        try:
            await self._start(settings, started_at)
        except BaseException as error:
            logs.event("engine.start_failed", level=logging.ERROR, exception=logs.describe(error))
            monitoring.farewell()
            with contextlib.suppress(Exception):
                succession.counted(self._actor_name)  # it was not killed
            raise

    def _instance(self) -> dict[str, str]:
        return {"instance.id": self._actor_name.rpartition("::")[2]}

    async def _start(self, settings: Settings, started_at: float) -> None:
        replaced = await asyncio.to_thread(succession.enlist, self._actor_name)
        logs.event(
            "engine.starting",
            model=settings.model_id,
            tensor_parallel_size=settings.tensor_parallel_size,
            replaces=replaced and replaced.name.rpartition("#")[2],
        )
        self._settings = settings
        self._created = int(time.time())
        self._stopping = False
        self._ending: asyncio.Task[str] | None = None
        # From now on this node says that it has no engine, for as long as there is none.
        record_on_this_node(settings)
        monitoring.expect_farewell("engine", settings.model_id)
        on_node_end(monitoring.farewell)
        labels = await asyncio.to_thread(declared_labels)
        self._metrics = metrics = monitoring.ReplicaMetrics(settings.model_id, declared=labels)
        if replaced is not None and not replaced.counted:
            metrics.predecessor_killed()
            logs.event(
                "engine.killed",
                "its process ended without a word: the OOM killer, a signal, or its node",
                level=logging.ERROR,
                engine=replaced.name.rpartition("#")[2],
            )
        try:
            await self._start_engine(settings, metrics, started_at)
        except Exception:
            metrics.engine_lost("start")
            raise

    async def _start_engine(self, settings: Settings, metrics: monitoring.ReplicaMetrics, started_at: float) -> None:
        directory = await asyncio.to_thread(resolve_checkpoint, settings.model, settings.revision)
        model = ModelConfig.from_checkpoint(directory)
        settings.check_model(model)
        tokenizer = await asyncio.to_thread(Tokenizer.from_checkpoint, directory)
        tokenizer.check(model)
        draft = await asyncio.to_thread(find_draft, settings.engine_config(), model, directory)
        placement_group = get_current_placement_group()
        assert placement_group is not None, "deploy this with deployments.app.build: it sets the placement group"
        bundle = placement_group.bundle_specs[1]
        self._group = await RankGroup.start(
            engine_config(settings, model, directory, bundle, draft),
            placement_group,
            bundle,
            progress.report,
            functools.partial(configure_logs, settings, process="rank", replica=self._name),
            self.rank_class,
        )
        try:
            client = await EngineClient.connect(os.fspath(self._group.socket_path), settings.step_timeout_s)
            self._group.remove_socket()
            await client.ping(settings.step_timeout_s)
        except BaseException:
            self._group.kill()
            raise
        admission = Admission(settings.max_num_seqs, settings.max_queued_requests)
        self._deliveries = Deliveries(self._name, admission, self._failed)
        reports = self._group.reports
        metrics.engine_ready(
            time.monotonic() - started_at,
            [report["load_seconds"] for report in reports],
            [report["parameter_bytes"] for report in reports],
        )
        metrics.device_limits(settings.device_bandwidth, settings.device_flops)
        metrics.gpu_memory(client.gpus)
        limits = StepLimits.on(bundle_device(bundle), settings.max_num_seqs, settings.max_num_batched_tokens, 0)
        self._client = client
        self._service = EngineService(
            client,
            tokenizer,
            admission,
            settings.step_timeout_s,
            metrics,
            demand=Demand(limits.tokens),
            tracing=self._tracing,
            name=self._name,
            caches=settings.enable_prefix_caching,
        )
        client.on_step = self._service.stepped
        self._info = model_info(settings, model, self._group.reports, self._created)
        watchers = (self._watch, self._watch_ranks, self._watch_heartbeats)
        self._ready_at = time.time()
        self._watchers = [asyncio.create_task(watch()) for watch in watchers]
        logs.event("engine.ready", **ready_figures(self._info, self._group.reports, time.monotonic() - started_at))

    async def stream(self, request: GenerationRequest, whole: bool) -> AsyncGenerator[Item, None]:
        """The answer, as `deployments.replica.delivery` sends it. whole: in one piece."""
        answer = self._whole(request) if whole else self._service.stream(request)
        if request.news_s:
            answer = seldom(answer, request.news_s, time.monotonic)
        async with contextlib.aclosing(self._deliveries.deliver(request, answer)) as items:
            async for item in items:
                yield item

    async def _whole(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        yield await self._service.generate(request)

    async def attach(self, attach: Attach) -> AsyncGenerator[bytes, None]:
        """`News` of all answers for one ingress, in MessagePack."""
        async with contextlib.aclosing(self._deliveries.attach(attach)) as messages:
            async for message in messages:
                yield encoder.encode(message)

    async def received(self, receipt: Receipt) -> bool:
        """Ends the answers of which nobody waits for more. False where it came to the wrong replica."""
        return self._deliveries.received(receipt)

    def _failed(self, request: GenerationRequest, error: Exception) -> ServeError:
        """What the ingress is told; what nobody expected is written here, where its traceback is."""
        if not isinstance(error, ServeError):
            logs.event(
                "engine.request_failed",
                level=logging.ERROR,
                request_id=request.client_request_id,
                completion_id=request.request_id,
                exception=logs.describe(error, self._settings.log_text),
            )
        return unwrap(error)

    async def health(self, question: Question | None = None) -> HealthReport:
        """question: who is asked, for the router; None: whoever it is."""
        report = await self._service.health()
        return msgspec.structs.replace(report, engine=self._name, since=self._ready_at, version=package_version())

    async def info(self) -> ModelInfo:
        return self._info

    async def check_health(self) -> None:
        """Serve's probe: whether this process answers at all. Of its engine `_watch_heartbeats` tells, and sooner."""

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `deployments.cluster.autoscaling` decides on."""
        stats = self._service.client.stats
        open_sequences = self._service.admission.open
        running = min(stats.running, open_sequences)
        return {
            "running": float(running),
            "waiting": float(open_sequences - running),
            "kv_usage": stats.kv_usage if open_sequences else 0.0,
            **self._service.demand.report(),
        }

    async def _watch(self) -> None:
        error = await self._service.watch()
        if not self._stopping:
            # The socket tells of a death at once, Ray tells a little later of which.
            ranks = asyncio.create_task(self._ranks_ended())
            await asyncio.wait([ranks], timeout=TOLD_S)
            await self._die(ranks.result() if ranks.done() else str(error))

    async def _watch_ranks(self) -> None:
        reason = await self._ranks_ended()
        if not self._stopping:
            self._service.client.fail(reason)

    async def _watch_heartbeats(self) -> None:
        """An idle engine that hangs ends no step late. One that misses a heartbeat is given up at once."""
        while True:
            await asyncio.sleep(self._settings.health_check_period_s)
            report = await self._service.health()
            self._metrics.gpu_memory(self._client.gpus)
            if not report.healthy and not self._stopping:
                self._client.fail(report.reason or "the engine missed its heartbeat", "heartbeat")
                return

    async def _ranks_ended(self) -> str:
        """`RankGroup.ended`, for more than one who asks."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._group.ended())
        return await asyncio.shield(self._ending)

    async def _die(self, reason: str) -> NoReturn:
        """Kill the ranks, let open streams end with their error, and end this process: Serve then replaces it."""
        logs.event("engine.dead", reason, level=logging.ERROR)
        monitoring.farewell()
        self._group.kill()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(FLUSH_S):
                await asyncio.to_thread(succession.counted, self._actor_name)
        await self._service.drained(FLUSH_S)
        await asyncio.sleep(HANDOVER_S)  # for Ray to send the last items
        self._tracing.shutdown(HANDOVER_S)
        logs.flush()
        os._exit(1)

    async def __del__(self) -> None:
        """Serve calls and awaits this after open requests have finished or the drain time is over."""
        monitoring.farewell()
        if getattr(self, "_service", None) is None:
            if (group := getattr(self, "_group", None)) is not None:
                group.kill()
            return
        if self._stopping:
            return
        self._stopping = True
        logs.event("engine.stopping", open_requests=self._service.open_streams)
        for watcher in self._watchers:
            watcher.cancel()
        await self._service.client.shutdown()
        if await self._group.stopped(STOP_S):
            self._group.release()
        else:
            logs.event("rank.killed", f"a rank did not stop within {STOP_S:g} s", level=logging.WARNING)
            self._group.kill()
        succession.strike_off(self._actor_name)
        await asyncio.to_thread(self._tracing.shutdown, TRACING_STOP_S)
        logs.event("engine.stopped")


def ready_figures(info: ModelInfo, reports: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What an operator wants to know of an engine that has just started. Sizes in bytes, of all ranks together."""
    blocks = min(report["num_kv_blocks"] for report in reports)
    return {
        "model": info.id,
        "seconds": round(seconds, 2),
        "load_seconds": round(max(report["load_seconds"] for report in reports), 2),
        "device": reports[0]["device"].partition(":")[0],
        "dtype": info.dtype,
        "tensor_parallel_size": info.tensor_parallel_size,
        "parameter_bytes": sum(info.parameter_bytes),
        "kv_cache_bytes": sum(report["kv_cache_bytes"] for report in reports),
        "kv_cache_tokens": blocks * info.block_size,
        "max_model_len": info.max_model_len,
        "forward": info.forward and info.forward.path,
        "forward_reason": info.forward and info.forward.reason,
        "forward_products": info.forward and info.forward.products,
    }


def bundle_device(bundle: dict[str, float]) -> str:
    return "cuda" if bundle.get("GPU") else "cpu"


def engine_config(
    settings: Settings, model: ModelConfig, directory: Path, bundle: dict[str, float], draft: Draft | None = None
) -> EngineConfig:
    """The settings with everything resolved that a rank could not resolve alike on its own."""
    device = bundle_device(bundle)
    threads = settings.num_threads
    if threads is None and device == "cpu":
        # Replicas may share the node: what Ray reserved for a rank bounds it only where Ray knows every core.
        threads = max(1, available_cores() // (settings.tensor_parallel_size * settings.min_replicas))
        if model.num_parameters < ONE_THREAD_PARAMETERS:
            threads = 1
    drafted = None if draft is None else os.fspath(draft.directory)
    return settings.engine_config(model=os.fspath(directory), draft_model=drafted, device=device, num_threads=threads)


def model_info(settings: Settings, model: ModelConfig, reports: list[dict[str, Any]], created: int) -> ModelInfo:
    return ModelInfo(
        id=settings.model_id,
        max_model_len=settings.max_model_len or model.n_positions,
        created=created,
        block_size=settings.block_size,
        dtype=reports[0]["dtype"],
        quantization=settings.quantization,
        tensor_parallel_size=settings.tensor_parallel_size,
        parameter_bytes=[report["parameter_bytes"] for report in reports],
        forward=msgspec.convert(reports[0]["forward"], ForwardPath),
    )


def keep_to_loopback() -> None:
    """Where Ray's node is 127.0.0.1, make Serve's gRPC server listen there too.

    It takes pickled calls from other replicas and listens on every interface, whatever the node's address.
    """
    from ray.serve._private import replica as internals

    if get_node_ip_address() != "127.0.0.1":
        return
    add_port = internals.add_port_to_grpc_server
    internals.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", "127.0.0.1"))
