"""How much memory a worker asks for, by the model that it loads.

The weights pass through memory on their way to a GPU, and the page cache keeps them for the next engine on the node, so
that a worker is given room for all of them. The rest is processes, measured with `pico` on a CPU
(proportional set sizes): raylet, agents, HAProxy and replica 0.45 GiB, an ingress process 0.15, a rank beside its cache
0.32. What CUDA adds to a rank is an allowance, not a measurement.
"""

from __future__ import annotations

import math
from pathlib import Path

from deployments.settings import Settings
from model.checkpoint.family import known_shape
from model.checkpoint.hub import EMBEDDED_MODELS, resolve_checkpoint
from model.checkpoint.memory import parameter_bytes
from model.config import ModelConfig

GIB = 1 << 30

WORKER = 1.0
INGRESS = 0.25
RANK = {"cpu": 0.5, "cuda": 3.0}
"""GiB."""

BYTES_PER_VALUE = {"float32": 4}
"""Others take 2."""


def worker_gibibytes(settings: Settings) -> int | None:
    """Whole GiB of a worker; None for a model whose shape is not known without its files: its overlay has to say it."""
    model = _shape(settings.model)
    if model is None:
        return None
    device = "cuda" if settings.device == "cuda" else "cpu"
    models = [model]
    if settings.draft_model is not None:
        if (draft := _shape(settings.draft_model)) is None:
            return None
        models.append(draft)
    weights = sum(parameter_bytes(each, 0, 1, BYTES_PER_VALUE.get(settings.dtype, 2)) for each in models)
    cache = settings.kv_cache_memory * settings.tensor_parallel_size if device == "cpu" else 0
    processes = WORKER + settings.ingress_replicas * INGRESS + settings.tensor_parallel_size * RANK[device]
    return math.ceil((weights + cache) / GIB + processes + shared_mebibytes(settings) / 1024)


def shared_mebibytes(settings: Settings) -> int:
    """/dev/shm: Ray's object store (256 MiB), and NCCL between GPUs without a direct path."""
    return 8192 if settings.device == "cuda" and settings.tensor_parallel_size > 1 else 512


def _shape(model: str) -> ModelConfig | None:
    if model in EMBEDDED_MODELS:
        return ModelConfig.from_checkpoint(resolve_checkpoint(model))
    directory = Path(model).expanduser()
    return known_shape(model) or (ModelConfig.from_checkpoint(directory) if directory.is_dir() else None)
