"""What a model takes of a rank's memory. The engine allocates by these functions, and `starcoder plan` prints them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from model.checkpoint.draft import draft_config
from model.config import EngineConfig, ModelConfig, Quantization
from model.drawing import ROWS_AT_ONCE, WORKING_BYTES
from model.kernels.all_reduce_layout import Layout
from model.kernels.mixed_graphs import MOST_TOKENS
from model.limits import StepLimits
from model.network.gpt_bigcode import GPTBigCode
from model.network.layers import Linear
from model.network.parallel import TensorParallel

DRIVER_BYTES = 1 << 30
"""Room for what PyTorch does not count: the CUDA context, cuBLAS workspaces, NCCL's buffers. An allowance, not a
measurement; a running engine asks the driver instead."""

LOGIT_BYTES = 10
"""Of a logit in float32, and beside it first what it is made of, on rank 0 the parts of all ranks, later the copy that
a draw adjusts."""


def parameter_bytes(
    model: ModelConfig, rank: int, size: int, bytes_per_value: int, quantization: Quantization = "none"
) -> int:
    """Bytes of weights that `rank` of `size` holds: the network itself, built without storage and counted.

    A tied head counts once; rank 0 holds the biases of row-parallel layers. quantization: as on a GPU, where a linear
    layer's weights take a byte each and 4 for each output's scale, and a tied head is held beside the embedding.
    Raises ConfigError where `size` does not divide the model.
    """
    model.check_tensor_parallel(size)
    network = GPTBigCode.without_storage(model, TensorParallel(rank, size))
    values = sum(p.numel() for p in network.parameters())
    if quantization == "none":
        head = network.lm_head.weight.numel() if model.tie_word_embeddings else 0
        return (values - head) * bytes_per_value
    weights = [m.weight for m in network.modules() if isinstance(m, Linear)]
    rounded = sum(w.numel() for w in weights)
    return (values - rounded) * bytes_per_value + rounded + sum(len(w) * 4 for w in weights)


def scratch_values(model: ModelConfig, size: int) -> int:
    """Values of the activations' type kept beside quantised weights: the largest layer of a block in plain form.

    Raises ConfigError where `size` does not divide the model.
    """
    model.check_tensor_parallel(size)
    network = GPTBigCode.without_storage(model, TensorParallel(0, size))
    return max(m.weight.numel() for m in network.h.modules() if isinstance(m, Linear))


def cache_shape(
    model: ModelConfig, size: int, blocks: int, block_size: int, head_dim: int | None = None, stripes: int = 1
) -> tuple[int, ...]:
    """One rank's cache tensor: [layers, 2, blocks, block_size / stripes, kv_heads, head_dim].

    The one key/value head of a multi-query model is on every rank, for the tokens of its stripe; otherwise heads are
    split. head_dim: the model's if None. stripes: ranks that share a cache.
    """
    kv_heads = 1 if model.multi_query else model.n_head // size
    return (model.n_layer, 2, blocks, block_size // stripes, kv_heads, head_dim or model.head_dim)


def block_bytes(
    model: ModelConfig,
    size: int,
    block_size: int,
    bytes_per_value: int,
    head_dim: int | None = None,
    stripes: int = 1,
) -> int:
    """Bytes of one cache block on one rank."""
    return math.prod(cache_shape(model, size, 1, block_size, head_dim, stripes)) * bytes_per_value


def activation_bytes(model: ModelConfig, size: int, config: EngineConfig, bytes_per_value: int) -> int:
    """What a full step needs at most beside weights and cache on a GPU: activations, and logits on rank 0."""
    limits = StepLimits.on("cuda", config.max_num_seqs, config.max_num_batched_tokens, config.speculative_tokens)
    width = max(model.n_inner // size, 4 * model.n_embd)
    recorded = min(MOST_TOKENS, limits.tokens) if config.cuda_graphs else 0  # these keep their memory
    tokens = limits.tokens + recorded
    return tokens * width * 4 * bytes_per_value + logits_bytes(model.vocab_size, limits)


def logits_bytes(vocab_size: int, limits: StepLimits) -> int:
    """What all rows of logits that a step may have need at most, until tokens are drawn from them."""
    together = min(limits.logit_rows, ROWS_AT_ONCE)
    return vocab_size * (limits.logit_rows * LOGIT_BYTES + together * WORKING_BYTES)


@dataclass(frozen=True)
class MemoryPlan:
    """How one rank's GPU memory divides. Sizes in bytes."""

    size: int
    """Tensor-parallel ranks."""
    parameters: int
    """Of the rank that holds most."""
    activations: int
    """And the scratch of quantised layers, and what ranks add up in."""
    cache: int
    """Left for the cache; negative where the weights do not fit."""
    cache_tokens: int
    """Whole blocks of it, in tokens. The cache of a multi-query model is replicated unless it is striped: more ranks
    add no tokens by themselves, but the weights leave more room."""
    block_bytes: int
    """Of a cache block."""
    max_model_len: int

    @property
    def fits(self) -> bool:
        """Whether an engine would start: one sequence of the longest length has room."""
        return self.cache_tokens >= self.max_model_len

    @property
    def longest_sequences(self) -> float:
        """Sequences of `max_model_len` that have room at once, prefixes shared by nobody."""
        return self.cache_tokens / self.max_model_len


def plan(
    model: ModelConfig, config: EngineConfig, gpu_memory: int, bytes_per_value: int, draft: ModelConfig | None = None
) -> MemoryPlan:
    """Divide `gpu_memory` bytes as an engine of `config` would on each of its GPUs.

    draft: the shape of `config.draft_model`, which the first GPU has beside its share of the model: the cache is the
    smallest GPU's.
    Raises ConfigError where `config.tensor_parallel_size` does not divide the model, or its cache cannot be striped.
    """
    config.check_ranks(model)
    size = config.tensor_parallel_size
    parameters = parameter_bytes(model, 0, size, bytes_per_value, config.quantization)
    activations = activation_bytes(model, size, config, bytes_per_value)
    if config.all_reduce == "fused" and size > 1:
        activations += Layout(size, model.n_embd, bytes_per_value).bytes
    if config.quantization != "none":
        activations += scratch_values(model, size) * bytes_per_value
    each = block_bytes(model, size, config.block_size, bytes_per_value, stripes=config.decode_context_parallel_size)
    if draft is not None:
        config.check_draft(model, draft)
        drafting = draft_config(config)
        parameters += parameter_bytes(draft, 0, 1, bytes_per_value, config.quantization)
        activations += activation_bytes(draft, 1, drafting, bytes_per_value)
        if config.quantization != "none":
            activations += scratch_values(draft, 1) * bytes_per_value
        each += block_bytes(draft, 1, config.block_size, bytes_per_value)
    cache = int(gpu_memory * config.gpu_memory_utilization) - DRIVER_BYTES - parameters - activations
    return MemoryPlan(
        size=size,
        parameters=parameters,
        activations=activations,
        cache=cache,
        cache_tokens=max(cache, 0) // each * config.block_size,
        block_bytes=each,
        max_model_len=config.max_model_len or model.n_positions,
    )
