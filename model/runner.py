"""One rank: its share of the network and of the cache; a batch in, logits out."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import numpy as np
import torch

from model.backends.backend import Weights
from model.backends.choice import choose
from model.backends.draws import choose_draws
from model.batch import Batch
from model.checkpoint.hub import resolve_checkpoint
from model.checkpoint.memory import activation_bytes, block_bytes, cache_shape
from model.checkpoint.weights import Progress, Share, load_weights, random_weights
from model.config import ConfigError, EngineConfig, ModelConfig
from model.drawing import Choose
from model.limits import DRAFTED_ROWS
from model.network.parallel import TensorParallel
from model.statistics import ForwardPath, GpuMemory


class LoadReport(msgspec.Struct):
    """What a rank holds once it is ready. Sizes in bytes, times in seconds."""

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


def max_model_len(config: EngineConfig, model: ModelConfig) -> int:
    """The longest sequence served. Raises ConfigError where more is asked for than the positions learned."""
    if config.max_model_len is not None and config.max_model_len > model.n_positions:
        raise ConfigError(
            f"max_model_len={config.max_model_len} is beyond the model's window of {model.n_positions} positions"
        )
    return config.max_model_len or model.n_positions


def _weights(config: EngineConfig, share: Share, directory: Path, progress: Progress) -> Weights:
    if config.load_format == "random":
        return lambda place: random_weights(share, config.seed or 0, place)
    return lambda place: load_weights(share, directory, place, progress)


class Runner:
    """Loads this rank's weights and runs batches. `group` must have joined already."""

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
        self.group = group
        self.device = device
        self.block_size = config.block_size
        choice = choose(config, self.model, group, device)
        self.dtype = choice.dtype
        # before the weights: what the check takes is the driver's again when the cache is sized
        self.choose_tokens = self._choose_tokens(config)
        share = Share(self.model, group, device, self.dtype)
        self.backend = choice.load(config, share, _weights(config, share, directory, progress))
        self.max_model_len = max_model_len(config, self.model)
        self.num_kv_blocks = self._num_kv_blocks(config)
        blocks = self.num_kv_blocks + self.backend.spare_blocks
        stripes = group.stripe.count
        shape = cache_shape(self.model, group.size, blocks, self.block_size, self.backend.head_dim, stripes)
        self.cache = torch.zeros(shape, dtype=self.dtype, device=device)
        drawn = config.max_num_seqs + DRAFTED_ROWS[device.type]
        self._drawn = torch.zeros(drawn, dtype=torch.int64, device=device)
        self.backend.warm_up(self.cache, self._drawn, self.max_model_len)
        self._check_first_step()
        self.report = LoadReport(
            rank=group.rank,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            parameter_bytes=self.backend.parameter_bytes,
            load_seconds=time.monotonic() - started,
            num_kv_blocks=self.num_kv_blocks,
            kv_cache_bytes=self.cache.numel() * self.cache.element_size(),
            block_size=self.block_size,
            max_model_len=self.max_model_len,
            forward=choice.forward,
        )

    def _choose_tokens(self, config: EngineConfig) -> Choose | None:
        """How tokens are drawn, on rank 0: nobody else draws."""
        return choose_draws(config, self.model.vocab_size, self.device) if self.group.is_first else None

    def _check_first_step(self) -> None:
        """Raise ConfigError, on rank 0, where the network computes what is no number: it would serve noise."""
        count = min(4, self.max_model_len)
        places = np.arange(count)
        batch = Batch(
            tokens=places * (self.model.vocab_size - 1) // max(count - 1, 1),
            positions=places,
            slots=places,
            query_lens=np.array([count]),
            context_lens=np.array([count]),
            block_tables=np.arange(-(-count // self.block_size))[None],
            logit_rows=places,
            num_decodes=0,
        )
        logits = self.run(batch)
        if logits is not None and not bool(logits.isfinite().all()):
            raise ConfigError(
                f"the model's first logits are not finite: the weights are damaged, or too large for {self.dtype}"
            )
        self.cache[:, :, : batch.block_tables.size] = 0

    def _num_kv_blocks(self, config: EngineConfig) -> int:
        """Cache blocks by configuration or by memory.

        Raises ConfigError where one full sequence would not fit, or the machine's memory has no room for so many.
        """
        stripes = self.group.stripe.count
        bytes_of_block = block_bytes(
            self.model, self.group.size, self.block_size, self.dtype.itemsize, self.backend.head_dim, stripes
        )
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
        """What `gpu_memory_utilization` leaves beside the weights and a full step's activations."""
        free, total = torch.cuda.mem_get_info(self.device)
        activations = activation_bytes(self.model, self.group.size, config, self.dtype.itemsize)
        return int(free - total * (1 - config.gpu_memory_utilization) - activations)

    @torch.inference_mode()
    def run(self, batch: Batch) -> torch.Tensor | None:
        """One forward pass on this rank. Rank 0 gets the logits [R, vocabulary] in float32, others None.

        The next call may overwrite them.
        """
        return self.backend.run(self.group.stripe.of(batch), self.cache, self._drawn)

    def receive(self, count: int, tokens: torch.Tensor | None = None) -> None:
        """Keep `count` drawn tokens for the next batch; on rank 0 they are given, and go to the other ranks."""
        kept = self._drawn[:count]
        if tokens is not None:
            kept.copy_(tokens)
        self.group.broadcast(kept)

    def gpu_memory(self) -> GpuMemory | None:
        """Of this rank's device; None on a CPU."""
        if self.device.type != "cuda":
            return None
        free, total = torch.cuda.mem_get_info(self.device)
        return GpuMemory(str(torch.cuda.get_device_properties(self.device).uuid), total - free, total)
