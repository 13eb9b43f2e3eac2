"""One process of the tensor-parallel group, from start to end. Knows no Ray: whoever starts processes drives it."""

from __future__ import annotations

import logging
import os
from typing import Any, TypeVar

import msgspec
import torch

from model.backends.choice import choose_device
from model.checkpoint.weights import Progress
from model.config import EngineConfig
from model.drafter import DraftModel
from model.engine import Engine
from model.executor import Executor, run_worker
from model.limits import SPECULATIVE_TOKENS
from model.network.parallel import TensorParallel
from model.process.loop import EngineLoop
from model.runner import LoadReport, Runner
from model.scheduling.costs import StepCosts

logger = logging.getLogger(__name__)


class Rank:
    """`listen` on rank 0, `load` on every rank at once, then `run` on every rank."""

    def __init__(self, config: EngineConfig, rank: int = 0, size: int | None = None) -> None:
        self.config = config
        self.group = TensorParallel(rank, size or config.tensor_parallel_size, config.decode_context_parallel_size)
        self._runner: Runner | None = None

    def listen(self) -> str:
        """Rank 0: bind a free loopback port and return "host:port" for the others' `load`."""
        return self.group.listen() if self.group.size > 1 else ""

    def load(self, address: str = "", progress: Progress = lambda _: None) -> dict[str, object]:
        """Join the group, load this rank's weights, allocate its cache. Blocks until every rank has joined.

        Returns a LoadReport as plain data. Raises ConfigError for a checkpoint or size that cannot work.
        """
        self.config.check_ranks()  # before ranks are told who their neighbours are
        device = choose_device(self.config.device, self.group.rank)
        if device.type == "cpu":
            torch.set_num_threads(self.config.num_threads or max(1, (os.cpu_count() or 1) // self.group.size))
        else:
            torch.cuda.set_device(device)
        self.group.join(address, device)
        self._runner = Runner(self.config, self.group, device, progress)
        self._agree_on_cache(self._runner)
        report = msgspec.to_builtins(self._runner.report)
        assert isinstance(report, dict)
        return report

    def _agree_on_cache(self, runner: Runner) -> None:
        """Ranks whose GPUs have different room use the smallest cache, since block numbers are common to all."""
        if self.group.size == 1:
            self.reports = [runner.report]
            return
        if self.group.is_first:
            others = [msgspec.msgpack.decode(m, type=LoadReport) for m in self.group.replies(timeout_s=3600)]
            self.reports = [runner.report, *others]
            runner.num_kv_blocks = min(r.num_kv_blocks for r in self.reports)
        else:
            self.group.reply(msgspec.msgpack.encode(runner.report))

    def run(self, socket_path: str = "") -> None:
        """Serve until the client says shutdown or goes away (rank 0), or rank 0 closes the wire (others).

        Blocks, at no CPU while idle. Raises whatever a step raises; the process should end then.
        """
        assert self._runner is not None, "load first"
        try:
            if self.group.is_first:
                EngineLoop(self.engine(), socket_path, [r.parameter_bytes for r in self.reports]).run()
            else:
                run_worker(self._runner)
        finally:
            self.group.close()

    def engine(self, **changes: Any) -> Engine:
        """Rank 0: a new engine over the loaded ranks.

        changes: of the configuration, for this engine alone: how it schedules. Of sequences and of blocks it may have
        fewer than the ranks were loaded for.
        """
        assert self._runner is not None, "load first"
        config = self.config.model_copy(update=changes)
        return Engine(
            Executor(self._runner),
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            target_inter_token_latency_s=config.target_inter_token_latency_s,
            enable_prefix_caching=config.enable_prefix_caching,
            speculative_tokens=_chosen(config.speculative_tokens, SPECULATIVE_TOKENS),
            async_scheduling=_chosen(config.async_scheduling, self._runner.device.type == "cuda"),
            seed=config.seed,
            num_kv_blocks=changes.get("num_kv_blocks"),
            costs=self.costs(),
            draft_model=self._draft_model(self._runner),
        )

    def _draft_model(self, runner: Runner) -> DraftModel | None:
        draft = runner.draft
        if draft is None:
            return None
        backend, width = draft.backend, draft.dtype.itemsize
        costs = StepCosts(draft.model, backend.parameter_bytes, width, head_is_copied=backend.head_is_copied)
        return DraftModel(draft, backend.parameter_bytes / runner.backend.parameter_bytes, costs)

    def costs(self) -> StepCosts:
        """What this rank's steps read and compute, once it is loaded."""
        assert self._runner is not None, "load first"
        return StepCosts(
            self._runner.model,
            self._runner.backend.parameter_bytes,
            self._runner.dtype.itemsize,
            self.group.size,
            self._runner.backend.head_is_copied,
            self.group.stripe.count,
        )


_Value = TypeVar("_Value")


def _chosen(value: _Value | None, otherwise: _Value) -> _Value:
    return otherwise if value is None else value
