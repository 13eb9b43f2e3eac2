"""What every backend offers: a step's logits, whatever computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from model.batch import Batch, resolve
from model.checkpoint.weights import Place
from model.device import to_device

Weights = Callable[[Place], int]
"""Loads this rank's parameters, one after the other; returns their bytes, a tied head counted once."""


class Backend(Protocol):
    """One rank's network. Made of `Weights`, it brings each into its own form as it is loaded, and keeps that alone."""

    parameter_bytes: int
    """What it holds; a tied head counts once, in the form that steps read, unless `head_is_copied`."""
    head_is_copied: bool
    """Whether a tied head is held, and counted, beside the embedding."""
    head_dim: int
    """Of the keys and values in its cache: the model's, or more."""
    spare_blocks: int
    """Blocks at the end of the cache that it needs for itself."""

    @property
    def late_compilations(self) -> int:
        """Kernels that it has compiled since `warm_up`, while somebody waited: there should be none."""
        ...

    def warm_up(self, cache: torch.Tensor, drawn: torch.Tensor, max_model_len: int) -> None:
        """Prepare steps on this cache and these drawn tokens, the tensors that `run` will be given.

        cache: [layers, 2, blocks, block_size, kv_heads, self.head_dim]; of a striped one, this rank's part of a block.
        drawn [n] int64, n the most tokens that a step draws. max_model_len: tokens of the longest sequence.
        """
        ...

    def run(self, batch: Batch, cache: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor | None:
        """One forward pass: writes the new tokens' keys and values into the cache, and returns logits.

        batch: with slots of this rank's cache, -1 for tokens that another rank keeps.
        drawn: what the step before drew. Logits are [R, vocabulary] in float32 on rank 0; None on other ranks, and
        where no row wants any. The next call may overwrite them.
        """
        ...


def token_ids(batch: Batch, drawn: torch.Tensor) -> torch.Tensor:
    """The batch's tokens [T] on the device of `drawn`, those that the step before drew among them."""
    tokens = to_device(batch.tokens, drawn.device)
    if batch.drawn_rows is None:
        return tokens
    return resolve(tokens, to_device(batch.drawn_rows, drawn.device), drawn)
