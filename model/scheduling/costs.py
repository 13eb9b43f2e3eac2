"""What a step costs the hardware, computed from its shape: bytes to read, operations to do.

Decode is bound by memory: every step reads all weights once, and the keys and values of every sequence. Prefill is
bound by arithmetic (the roofline model, Williams et al. 2009; for transformers Pope et al., arXiv:2211.05102,
section 2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from model.batch import Batch
from model.config import ModelConfig
from model.scheduling.step_time import Exchange


def weights_read(
    model: ModelConfig, parameter_bytes: int, value_bytes: int, ranks: int = 1, head_is_copied: bool = False
) -> int:
    """Bytes of weights that one rank reads in a step: all but the position table, and an embedding that is no head.

    parameter_bytes: what the rank holds, so that quantised weights count as the bytes they take.
    head_is_copied: a tied head is held beside the embedding, in another form. Otherwise a tied embedding is read whole,
    as the head; single rows of the tables are not worth counting.
    """
    is_head = model.tie_word_embeddings and not head_is_copied
    tables = model.n_positions + (0 if is_head else -(-model.vocab_size // ranks))
    return parameter_bytes - tables * model.n_embd * value_bytes


def cache_read(model: ModelConfig, contexts: Iterable[int], value_bytes: int) -> int:
    """Bytes of keys and values that one step reads for sequences of these lengths."""
    return model.kv_bytes_per_token(value_bytes) * sum(contexts)


def matrix_parameters(model: ModelConfig) -> int:
    """Weights of the blocks' linear layers, without biases, norms, embeddings and head."""
    key_value = 2 * model.n_kv_head * model.head_dim
    attention = model.n_embd * (model.n_embd + key_value) + model.n_embd * model.n_embd
    return model.n_layer * (attention + 2 * model.n_embd * model.n_inner)


def token_flops(model: ModelConfig, context: int) -> int:
    """FLOP of one token that looks at `context` tokens, itself included, without the head.

    2 a weight (one product, one sum), and 4 * layers * width * context for the scores and the weighted sum
    (Kaplan et al., arXiv:2001.08361, section 2.1; PaLM, arXiv:2204.02311, appendix B).
    """
    return 2 * matrix_parameters(model) + 4 * model.n_layer * model.n_embd * context


def head_flops(model: ModelConfig) -> int:
    """FLOP of one row of logits."""
    return 2 * model.n_embd * model.vocab_size


def prefill_flops(model: ModelConfig, length: int, cached: int = 0) -> int:
    """FLOP of a prompt of which `cached` tokens are in the cache, and of one row of logits.

    `token_flops` summed over contexts cached + 1 to length: a token looks at itself and those before it.
    """
    contexts = length * (length + 1) // 2 - cached * (cached + 1) // 2
    attention = 4 * model.n_layer * model.n_embd * contexts
    return 2 * matrix_parameters(model) * (length - cached) + attention + head_flops(model)


@dataclass(frozen=True)
class StepCosts:
    """Costs of one rank's steps: its share of the operations, the weights it holds, and the cache it reads."""

    model: ModelConfig
    parameter_bytes: int
    value_bytes: int
    ranks: int = 1
    head_is_copied: bool = False
    stripes: int = 1

    @property
    def weights_read(self) -> int:
        """Bytes of weights that one rank reads in a step."""
        return weights_read(self.model, self.parameter_bytes, self.value_bytes, self.ranks, self.head_is_copied)

    def exchange(self, ridge: int) -> Exchange:
        """What a step does besides its tokens' linear layers, in such tokens; `ridge` of them: reading the weights."""
        one_token = cache_read(self.model, [1], self.value_bytes) // self._cache_shards
        look = token_flops(self.model, 1) - token_flops(self.model, 0)
        return Exchange(ridge, ridge * one_token / self.weights_read, look / token_flops(self.model, 0))

    @property
    def _cache_shards(self) -> int:
        """The one head of a multi-query model is on every rank, all of it or a stripe; more heads are shared out."""
        return self.stripes if self.model.multi_query else self.ranks

    def read_bytes(self, batch: Batch) -> int:
        """Bytes of weights and cache that one rank reads for this batch."""
        cache = cache_read(self.model, [int(batch.context_lens.sum())], self.value_bytes)
        return self.weights_read + cache // self._cache_shards

    def flops(self, batch: Batch) -> int:
        """Operations that one rank does for this batch."""
        contexts = int(np.sum(batch.positions)) + len(batch.positions)
        linear = 2 * matrix_parameters(self.model) * len(batch.tokens)
        attention = 4 * self.model.n_layer * self.model.n_embd * contexts
        return (linear + attention + head_flops(self.model) * len(batch.logit_rows)) // self.ranks
