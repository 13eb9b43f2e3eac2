"""One rank: its share of the network and of the cache; a batch in, logits out."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import msgspec
import torch

from model.backends.backend import Backend
from model.backends.draws import choose_draws
from model.batch import Batch
from model.checkpoint.draft import Draft, find_draft
from model.checkpoint.hub import resolve_checkpoint
from model.checkpoint.weights import Progress
from model.config import ConfigError, EngineConfig, ModelConfig
from model.drawing import Choose
from model.network.parallel import TensorParallel
from model.shard import Shard
from model.statistics import ForwardPath, GpuMemory


class LoadReport(msgspec.Struct):
    """What a rank holds once it is ready. Sizes in bytes, times in seconds.

    parameter_bytes, kv_cache_bytes: a draft model's included, which rank 0 has. draft_parameter_bytes: of that alone.
    """

    rank: int
    device: str
    dtype: str
    parameter_bytes: int
    load_seconds: float
    num_kv_blocks: int
    kv_cache_bytes: int
    block_size: int
    max_model_len: int
    forward: ForwardPath
    draft_parameter_bytes: int = 0


@contextlib.contextmanager
def _of_draft(draft: Draft) -> Iterator[None]:
    """Whoever reads an error knows which model it is about."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"draft_model={draft.config.model}: {error}") from error


class Runner:
    """Loads this rank's weights and runs batches. `group` must have joined already.

    draft: on rank 0, a second, small model, whose cache has the same blocks; None where there is none.
    """

    def __init__(
        self,
        config: EngineConfig,
        group: TensorParallel,
        device: torch.device,
        progress: Progress = lambda _: None,
    ) -> None:
        started = time.monotonic()
        directory = resolve_checkpoint(config.model, config.revision)
        self.model = ModelConfig.from_checkpoint(directory)
        self.model.check_tensor_parallel(group.size)
        config.check_ranks(self.model)
        drafts = find_draft(config, self.model, directory)  # on every rank, so that all refuse what does not fit
        self.group = group
        self.device = device
        self.block_size = config.block_size
        # before the weights: what the check takes is the driver's again when the cache is sized
        self.choose_tokens = self._choose_tokens(config)
        here = drafts if group.is_first else None
        own, more = self.model.num_parameters / group.size, here.model.num_parameters if here is not None else 0
        self._shard = Shard(
            config, self.model, directory, group, device, lambda done: progress(done * own / (own + more))
        )
        self.draft: Shard | None = None
        if here is not None:
            with _of_draft(here):
                self.draft = Shard(
                    here.config,
                    here.model,
                    here.directory,
                    TensorParallel(),  # all of it: its steps ask no other rank
                    device,
                    lambda done: progress((own + done * more) / (own + more)),
                )
        self.dtype, self.max_model_len = self._shard.dtype, self._shard.max_model_len
        self.num_kv_blocks = self._num_kv_blocks(config)
        drafted = 0
        if here is not None and self.draft is not None:
            drafted = self.draft.backend.parameter_bytes
            with _of_draft(here):  # first: what it compiles is not late for the other one's steps
                self.draft.allocate(self.num_kv_blocks)
        self._shard.allocate(self.num_kv_blocks)
        self.report = LoadReport(
            rank=group.rank,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            parameter_bytes=self.backend.parameter_bytes + drafted,
            load_seconds=time.monotonic() - started,
            num_kv_blocks=self.num_kv_blocks,
            kv_cache_bytes=sum(shard.cache_bytes for shard in self._shards),
            block_size=self.block_size,
            max_model_len=self.max_model_len,
            forward=self._shard.forward,
            draft_parameter_bytes=drafted,
        )

    @property
    def _shards(self) -> list[Shard]:
        return [self._shard] if self.draft is None else [self._shard, self.draft]

    @property
    def backend(self) -> Backend:
        return self._shard.backend

    @property
    def cache(self) -> torch.Tensor:
        """As `Shard` has it."""
        return self._shard.cache

    @property
    def drawn(self) -> torch.Tensor:
        """As `Shard` has it."""
        return self._shard.drawn

    def _choose_tokens(self, config: EngineConfig) -> Choose | None:
        """How tokens are drawn, on rank 0: nobody else draws."""
        return choose_draws(config, self.model.vocab_size, self.device) if self.group.is_first else None

    def _num_kv_blocks(self, config: EngineConfig) -> int:
        """Cache blocks by configuration or by memory.

        Raises ConfigError where one full sequence would not fit, or the machine's memory has no room for so many.
        """
        bytes_of_block = sum(shard.block_bytes for shard in self._shards)
        if config.num_kv_blocks is not None:
            blocks = config.num_kv_blocks
        elif self.device.type == "cuda":
            blocks = self._gpu_cache_bytes(config) // bytes_of_block
        else:
            blocks = config.kv_cache_memory // bytes_of_block
        needed = -(-self.max_model_len // self.block_size)
        if blocks < needed:
            raise ConfigError(
                f"the cache holds {max(blocks, 0)} blocks of {self.block_size} tokens, but one sequence of "
                f"max_model_len={self.max_model_len} needs {needed}: give the cache more memory "
                f"({needed * bytes_of_block:,} bytes at least) or set max_model_len lower"
            )
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if self.device.type == "cpu" and blocks * bytes_of_block > machine:
            raise ConfigError(
                f"a cache of {blocks * bytes_of_block:,} bytes is more than this machine's memory of {machine:,}"
            )
        return blocks

    def _gpu_cache_bytes(self, config: EngineConfig) -> int:
        """What `gpu_memory_utilization` leaves beside the weights and a full step's activations, of both models."""
        free, total = torch.cuda.mem_get_info(self.device)
        activations = sum(shard.activation_bytes for shard in self._shards)
        return int(free - total * (1 - config.gpu_memory_utilization) - activations)

    def run(self, batch: Batch) -> torch.Tensor | None:
        """One forward pass on this rank, as `Shard` has it."""
        return self._shard.run(batch)

    def receive(self, count: int, tokens: torch.Tensor | None = None) -> None:
        """Keep `count` drawn tokens for the next batch, as `Shard` has it."""
        self._shard.receive(count, tokens)

    def gpu_memory(self) -> GpuMemory | None:
        """Of this rank's device; None on a CPU."""
        if self.device.type != "cuda":
            return None
        free, total = torch.cuda.mem_get_info(self.device)
        return GpuMemory(str(torch.cuda.get_device_properties(self.device).uuid), total - free, total)
