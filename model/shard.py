"""One rank's share of one model: its weights, its cache, and steps on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from model.backends.backend import Weights
from model.backends.choice import choose
from model.batch import Batch
from model.checkpoint.memory import activation_bytes, block_bytes, cache_shape
from model.checkpoint.weights import Progress, Share, load_weights, random_weights
from model.config import ConfigError, EngineConfig, ModelConfig
from model.limits import DRAFTED_ROWS
from model.network.parallel import TensorParallel


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


class Shard:
    """Loaded when it is made. It runs batches once its cache is `allocated`."""

    cache: torch.Tensor
    """[layers, 2, blocks, block_size, kv_heads, head_dim], those blocks included that the backend has for itself."""
    drawn: torch.Tensor
    """Tokens that the step before drew, for the next batch [n] int64."""

    def __init__(
        self,
        config: EngineConfig,
        model: ModelConfig,
        directory: Path,
        group: TensorParallel,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.model = model
        self.group = group
        self.device = device
        self._config = config
        choice = choose(config, model, group, device)
        self.dtype = choice.dtype
        self.forward = choice.forward
        share = Share(model, group, device, self.dtype)
        self.backend = choice.load(config, share, _weights(config, share, directory, progress))
        self.max_model_len = max_model_len(config, model)

    @property
    def block_bytes(self) -> int:
        """Of one block of its cache."""
        size, stripes = self.group.size, self.group.stripe.count
        block_size, width = self._config.block_size, self.backend.head_dim
        return block_bytes(self.model, size, block_size, self.dtype.itemsize, width, stripes)

    @property
    def activation_bytes(self) -> int:
        """Of a full step on a GPU."""
        return activation_bytes(self.model, self.group.size, self._config, self.dtype.itemsize)

    @property
    def cache_bytes(self) -> int:
        return self.cache.numel() * self.cache.element_size()

    def allocate(self, num_kv_blocks: int) -> None:
        """Make its cache, and prepare its steps. Raises ConfigError where what it computes are no numbers."""
        blocks, stripes = num_kv_blocks + self.backend.spare_blocks, self.group.stripe.count
        block_size, width = self._config.block_size, self.backend.head_dim
        shape = cache_shape(self.model, self.group.size, blocks, block_size, width, stripes)
        self.cache = torch.zeros(shape, dtype=self.dtype, device=self.device)
        drawn = self._config.max_num_seqs + DRAFTED_ROWS[self.device.type]
        self.drawn = torch.zeros(drawn, dtype=torch.int64, device=self.device)
        self.backend.warm_up(self.cache, self.drawn, self.max_model_len)
        self._check_first_step()

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
            block_tables=np.arange(-(-count // self._config.block_size))[None],
            logit_rows=places,
            num_decodes=0,
        )
        logits = self.run(batch)
        if logits is not None and not bool(logits.isfinite().all()):
            raise ConfigError(
                f"the model's first logits are not finite: the weights are damaged, or too large for {self.dtype}"
            )
        self.cache[:, :, : batch.block_tables.size] = 0

    @torch.inference_mode()
    def run(self, batch: Batch) -> torch.Tensor | None:
        """One forward pass. Rank 0 gets the logits [R, vocabulary] in float32, others None.

        The next call may overwrite them.
        """
        return self.backend.run(self.group.stripe.of(batch), self.cache, self.drawn)

    def receive(self, count: int, tokens: torch.Tensor | None = None) -> None:
        """Keep `count` drawn tokens for the next batch; on rank 0 they are given, and go to the other ranks."""
        kept = self.drawn[:count]
        if tokens is not None:
            kept.copy_(tokens)
        self.group.broadcast(kept)
