"""What the hardware could do, and how much of it a run used.

Decode is bound by memory: every step reads all weights once, and the keys and values of every sequence. Prefill is
bound by arithmetic. So decode is compared with a measured copy, and prefill with a measured matrix product (the
roofline model, Williams et al. 2009; for transformers Pope et al., arXiv:2211.05102, section 2).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import torch

from model.config import ModelConfig


@dataclass(frozen=True)
class Limits:
    """copy_bytes_per_s: bytes read plus bytes written by a copy; matmul_flops_per_s: of a square product."""

    copy_bytes_per_s: float
    matmul_flops_per_s: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def measure_limits(device: torch.device, dtype: torch.dtype, *, copy_bytes: int = 0, matmul_size: int = 0) -> Limits:
    """Measure both on this device with the threads PyTorch has now, the best of several tries.

    copy_bytes: size of the buffer, far beyond the caches; 0: 1 GiB on a GPU, 256 MiB on CPU.
    matmul_size: rows of the square factors; 0: 8192 on a GPU, 2048 on CPU.
    """
    gpu = device.type == "cuda"
    return Limits(
        copy_bytes_per_s=copy_bandwidth(device, copy_bytes or (1 << 30 if gpu else 1 << 28)),
        matmul_flops_per_s=matmul_rate(device, dtype, matmul_size or (8192 if gpu else 2048)),
    )


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Bytes moved a second by copying `size` bytes, 2 * size / time: each byte is read once and written once."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best_seconds(lambda: target.copy_(source), device)


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP a second of a [size, size] product in `dtype`, 2 * size^3 / time."""
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    out = torch.empty(size, size, dtype=dtype, device=device)
    return 2 * size**3 / _best_seconds(lambda: torch.mm(left, right, out=out), device)


def _best_seconds(work: Callable[[], object], device: torch.device, tries: int = 7) -> float:
    def once() -> float:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    once()
    return min(once() for _ in range(tries))


def weights_read(model: ModelConfig, parameter_bytes: int, value_bytes: int) -> int:
    """Bytes of weights that one step reads: all of them but the position table (and an untied embedding).

    parameter_bytes: what the rank holds, so that quantised weights count as the bytes they take.
    A tied embedding is read whole, as the head; single rows of the tables are not worth counting.
    """
    tables = model.n_positions + (0 if model.tie_word_embeddings else model.vocab_size)
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
