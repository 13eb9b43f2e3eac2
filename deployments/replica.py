"""The Serve deployment of one engine: starts its ranks, answers for it, and dies with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NoReturn

from ray.util import get_current_placement_group, get_node_ip_address

import monitoring
from deployments import progress
from deployments.admission import Admission
from deployments.errors import ServeError
from deployments.group import RankGroup
from deployments.node_metrics import record_on_this_node
from deployments.protocol import Delta, GenerationRequest, HealthReport, ModelInfo
from deployments.service import EngineService
from deployments.settings import Settings
from model.client import EngineClient
from model.config import ConfigError, EngineConfig, ModelConfig
from model.hub import resolve_checkpoint
from model.tokenizer import Tokenizer

logger = logging.getLogger("ray.serve")

FLUSH_S = 2.0
"""How long open streams have to take the error away before the process ends."""

HANDOVER_S = 0.3

ONE_THREAD_PARAMETERS = 40_000_000
"""A smaller model's products end before a second thread pays; threads that spin for each other cost milliseconds."""

STOP_S = 10.0


class EngineReplica:
    """Answers `deployments.protocol.Backend`'s calls with one tensor-parallel engine.

    A `ServeError` is returned, or yielded last, and raised by the handle's side: Serve would log a traceback for
    every one that is raised here, and being overloaded is no reason to write more logs.
    """

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]
        # With num_gpus=0 Ray shows this process every GPU; it must never touch one.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        keep_to_loopback()
        started_at = time.monotonic()
        self._settings = settings
        self._created = int(time.time())
        self._stopping = False
        directory = await asyncio.to_thread(resolve_checkpoint, settings.model, settings.revision)
        model = ModelConfig.from_checkpoint(directory)
        settings.check_model(model)
        tokenizer = await asyncio.to_thread(Tokenizer.from_checkpoint, directory)
        if tokenizer.vocab_size > model.vocab_size:
            raise ConfigError(
                f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens, but config.json says "
                f"vocab_size={model.vocab_size}: they do not belong together"
            )
        placement_group = get_current_placement_group()
        assert placement_group is not None, "deploy this with deployments.app.build: it sets the placement group"
        bundle = placement_group.bundle_specs[1]
        self._group = await RankGroup.start(
            engine_config(settings, model, directory, bundle), placement_group, bundle, progress.report
        )
        try:
            client = await EngineClient.connect(os.fspath(self._group.socket_path), settings.step_timeout_s)
            self._group.remove_socket()
            await client.ping(settings.step_timeout_s)
        except BaseException:
            self._group.kill()
            raise
        admission = Admission(settings.max_num_seqs, settings.max_queued_requests)
        record_on_this_node(settings)
        metrics = monitoring.ReplicaMetrics(settings.model_id)
        reports = self._group.reports
        metrics.engine_ready(
            time.monotonic() - started_at,
            [report["load_seconds"] for report in reports],
            [report["parameter_bytes"] for report in reports],
        )
        metrics.device_limits(settings.device_bandwidth, settings.device_flops)
        metrics.gpu_memory(client.gpus)
        client.on_step = metrics.step
        self._client, self._metrics = client, metrics
        self._service = EngineService(client, tokenizer, admission, settings.step_timeout_s, metrics)
        self._info = model_info(settings, model, self._group.reports, self._created)
        self._watchers = [asyncio.create_task(self._watch()), asyncio.create_task(self._watch_ranks())]
        logger.info("The engine is ready after %.1f s.", time.monotonic() - started_at)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta] | ServeError, None]:
        try:
            async with contextlib.aclosing(self._service.stream(request)) as batches:
                async for batch in batches:
                    yield batch
        except ServeError as error:
            yield error

    async def generate(self, request: GenerationRequest) -> list[Delta] | ServeError:
        try:
            return await self._service.generate(request)
        except ServeError as error:
            return error

    async def health(self) -> HealthReport:
        return await self._service.health()

    async def info(self) -> ModelInfo:
        return self._info

    async def check_health(self) -> None:
        """Serve's probe. An engine that misses its heartbeat is replaced at once, not after three strikes."""
        report = await self._service.health()
        self._metrics.gpu_memory(self._client.gpus)
        if not report.healthy and not self._stopping:
            self._service.client.fail(report.reason or "the engine missed its heartbeat", "heartbeat")
            # This process is about to end, which says all; an answer would only add tracebacks to the log.
            await asyncio.sleep(FLUSH_S + HANDOVER_S + STOP_S)
            raise RuntimeError(f"the engine is dead: {report.reason}")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `deployments.autoscaling` decides on."""
        stats = self._service.client.stats
        open_sequences = self._service.admission.open
        running = min(stats.running, open_sequences)
        return {
            "running": float(running),
            "waiting": float(open_sequences - running),
            "kv_usage": stats.kv_usage if open_sequences else 0.0,
        }

    async def _watch(self) -> None:
        error = await self._service.watch()
        if not self._stopping:
            await self._die(str(error))

    async def _watch_ranks(self) -> None:
        reason = await self._group.ended()
        if not self._stopping:
            self._service.client.fail(reason)

    async def _die(self, reason: str) -> NoReturn:
        """Kill the ranks, let open streams end with their error, and end this process: Serve then replaces it."""
        logger.error("The engine is dead and will be replaced: %s.", reason)
        self._group.kill()
        await self._service.drained(FLUSH_S)
        await asyncio.sleep(HANDOVER_S)  # for Ray to send the last items
        os._exit(1)

    async def __del__(self) -> None:
        """Serve calls and awaits this after open requests have finished or the drain time is over."""
        if getattr(self, "_service", None) is None:
            if (group := getattr(self, "_group", None)) is not None:
                group.kill()
            return
        if self._stopping:
            return
        self._stopping = True
        for watcher in self._watchers:
            watcher.cancel()
        await self._service.client.shutdown()
        if await self._group.stopped(STOP_S):
            self._group.release()
        else:
            logger.warning("A rank did not stop within %g s and is killed.", STOP_S)
            self._group.kill()


def engine_config(settings: Settings, model: ModelConfig, directory: Path, bundle: dict[str, float]) -> EngineConfig:
    """The settings with everything resolved that a rank could not resolve alike on its own."""
    device = "cuda" if bundle.get("GPU") else "cpu"
    threads = settings.num_threads
    if threads is None and device == "cpu":
        # Replicas may share the node: what Ray reserved for a rank bounds it only where Ray knows every core.
        threads = max(1, available_cores() // (settings.tensor_parallel_size * settings.min_replicas))
        if model.num_parameters < ONE_THREAD_PARAMETERS:
            threads = 1
    return settings.engine_config(model=os.fspath(directory), device=device, num_threads=threads)


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def model_info(settings: Settings, model: ModelConfig, reports: list[dict[str, Any]], created: int) -> ModelInfo:
    return ModelInfo(
        id=settings.model_id,
        max_model_len=settings.max_model_len or model.n_positions,
        created=created,
        block_size=settings.block_size,
        dtype=reports[0]["dtype"],
        tensor_parallel_size=settings.tensor_parallel_size,
        parameter_bytes=[report["parameter_bytes"] for report in reports],
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
