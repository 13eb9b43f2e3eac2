"""What GPUs are, and how long a step takes on them: measured on an H100, extrapolated to others and to other models.

Measured are steps of StarCoder 15.5B in bfloat16 (benchmarks/results/gpu-h100.json): a decode of 1 and of 256 sequences
of 512 tokens, and a prompt of 2,048. Elsewhere what reads memory scales with bytes over the GPU's bandwidth, and what
computes with operations over its rate, each as far from the data sheet as the H100 was: the roofline model (Williams
et al. 2009). No other GPU has been timed so, and no engine of several GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.checkpoint.family import FAMILY
from model.config import ModelConfig

BYTES_PER_VALUE = 2
"""bfloat16."""


@dataclass(frozen=True)
class Gpu:
    """By its data sheet. memory: bytes. bandwidth: bytes a second. flops: of dense bfloat16 products, a second."""

    title: str
    memory: int
    bandwidth: float
    flops: float


GPUS = {
    "h100": Gpu("NVIDIA H100 SXM, 80 GB", 85_017_493_504, 3.35e12, 989e12),
    "h200": Gpu("NVIDIA H200, 141 GB", 150_000_000_000, 4.8e12, 989e12),
    "a100": Gpu("NVIDIA A100 SXM, 80 GB", 85_000_000_000, 2.039e12, 312e12),
    "l40s": Gpu("NVIDIA L40S, 48 GB", 48_000_000_000, 0.864e12, 362e12),
    "l4": Gpu("NVIDIA L4, 24 GB", 24_000_000_000, 0.3e12, 121e12),
}

MEASURED_GPU, MEASURED_MODEL = "h100", "starcoder"
DECODE_1_S, DECODE_256_S = 0.011551, 0.015988
"""Of a step, with `CONTEXT` tokens before each sequence."""
PROMPT_2048_S = 0.099509
CONTEXT = 512
BANDWIDTH_REACHED = 2.679e12
"""Bytes a second of weights and cache in a decode of one sequence."""


@dataclass(frozen=True)
class StepTimes:
    """A step takes base + sequence * those that decode + token * new tokens of prompts in it; all in seconds."""

    base: float
    sequence: float
    token: float

    def seconds(self, sequences: float, tokens: float) -> float:
        return self.base + self.sequence * sequences + self.token * tokens


def step_times(name: str, model: ModelConfig, context: int) -> StepTimes:
    """On the GPU of this name, with so many tokens before each token."""
    from model.scheduling.costs import cache_read, token_flops

    gpu, h100, starcoder = GPUS[name], GPUS[MEASURED_GPU], FAMILY[MEASURED_MODEL]
    slower_reading = h100.bandwidth / gpu.bandwidth
    slower_computing = h100.flops / gpu.flops
    reading = slower_reading * _weights(model) / _weights(starcoder)
    computing = slower_computing * token_flops(model, context) / token_flops(starcoder, CONTEXT)
    cache = cache_read(model, [context], BYTES_PER_VALUE) - cache_read(starcoder, [CONTEXT], BYTES_PER_VALUE)
    return StepTimes(
        base=DECODE_1_S * reading,
        sequence=max(
            (DECODE_256_S - DECODE_1_S) / 255 * computing + slower_reading * cache / BANDWIDTH_REACHED,
            slower_reading * cache_read(model, [context], BYTES_PER_VALUE) / BANDWIDTH_REACHED,
        ),
        token=(PROMPT_2048_S - DECODE_1_S) / 2048 * computing,
    )


def _weights(model: ModelConfig) -> int:
    """Bytes that a step reads, without biases and norms."""
    from model.scheduling.costs import matrix_parameters

    return (matrix_parameters(model) + model.vocab_size * model.n_embd) * BYTES_PER_VALUE
