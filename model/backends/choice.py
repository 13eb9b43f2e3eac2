"""Which backend runs, and as what type: decided once, the same on every rank.

| device | attention | cpu_kernels | backend |
| --- | --- | --- | --- |
| CPU | auto, torch | auto, native | native, where every rank can run it; else, with auto and no quantization, plain |
| CPU | auto, torch | torch | plain |
| CPU | triton | auto, torch | CUDA, interpreted |
| GPU | triton | any | CUDA with Triton's attention |
| GPU | auto | any | CUDA with Triton's attention, where it is right on every rank, else with PyTorch's |
| GPU | torch | any | CUDA with PyTorch's attention |
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Literal

import torch

from model.backends.agreement import Agreement
from model.backends.backend import Backend, Weights
from model.backends.cuda import CudaBackend, tolerance
from model.backends.native import NativeBackend
from model.backends.plain import PlainBackend, torch_attention
from model.checkpoint.weights import Share
from model.config import ConfigError, EngineConfig, ModelConfig
from model.kernels.native.support import obstacle as native_obstacle
from model.kernels.native.support import products as native_products
from model.kernels.native.support import runs_on_this_cpu as native_runs_on_this_cpu
from model.network.parallel import TensorParallel
from model.statistics import ForwardPath, Products

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Choice:
    """What every rank runs. attention: of the CUDA backend; native attends by itself, plain by PyTorch's operations.

    reason: why not what is faster on this device; None: nothing is. products: how native multiplies.
    """

    backend: Literal["native", "plain", "cuda"]
    dtype: torch.dtype
    attention: Literal["torch", "triton"] = "torch"
    reason: str | None = field(default=None, compare=False)
    products: Products | None = field(default=None, compare=False)

    @property
    def forward(self) -> ForwardPath:
        """As people are told of it."""
        return ForwardPath("native" if self.backend == "native" else self.attention, self.reason, self.products)

    def load(self, config: EngineConfig, share: Share, weights: Weights) -> Backend:
        """The backend with its weights."""
        if config.all_reduce == "fused" and share.group.size > 1 and self.forward.path != "triton":
            logger.warning("all_reduce=fused is for our kernels on GPUs: ranks add up by collectives")
        if self.backend == "native":
            return NativeBackend(share.model, config.quantization, weights)
        if self.backend == "cuda":
            return CudaBackend(share, config, self.attention, weights)
        packs = share.dtype is torch.bfloat16 and torch.backends.mkldnn.is_available()
        attention = torch_attention(share, config.block_size)
        return PlainBackend(share.model, share.group, attention, weights, packed=packs)


def choose_device(device: str, rank: int) -> torch.device:
    """The rank's device. A process that sees one GPU uses that one, whatever its rank."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("device=cuda, but PyTorch sees no CUDA device here")
    return torch.device("cuda", rank % torch.cuda.device_count())


def choose(config: EngineConfig, model: ModelConfig, group: TensorParallel, device: torch.device) -> Choice:
    """Every rank of a group that has joined asks at once.

    Raises ConfigError, on every rank, where what the configuration names cannot run on one of them.
    """
    ranks = Agreement(group, device)
    if device.type == "cpu":
        config.check_cpu()
    if device.type == "cpu" and config.attention != "triton":
        return _choose_on_cpu(config, model, ranks)
    return _choose_triton_or_gpu(config, model, ranks)


def _choose_on_cpu(config: EngineConfig, model: ModelConfig, ranks: Agreement) -> Choice:
    quantization = f"quantization={config.quantization}"
    if config.cpu_kernels == "torch":
        return Choice("plain", _dtype_of_pytorch(config, ranks), reason="cpu_kernels=torch")
    dtype = _DTYPES.get(config.dtype, torch.bfloat16)
    reason = ranks.obstacle(native_obstacle(model, ranks.group.size, dtype))
    if reason is None:
        products, shortfall = native_products()
        if shortfall is not None:
            logger.warning("The forward pass in C could be faster here: %s", shortfall)
        return Choice("native", dtype, reason=shortfall, products=products)
    if config.quantization != "none":
        raise ConfigError(f"{quantization} cannot be had: {reason}")
    if config.cpu_kernels == "native":
        raise ConfigError(f"cpu_kernels=native cannot be had: {reason}")
    # where the settings name another type, or the processor is too old, nobody expects it
    expected = dtype is torch.bfloat16 and native_runs_on_this_cpu()
    message = "PyTorch's operations run instead of our forward pass in C, which is faster: %s"
    logger.log(logging.WARNING if expected else logging.INFO, message, reason)
    return Choice("plain", _dtype_of_pytorch(config, ranks), reason=reason)


def _choose_triton_or_gpu(config: EngineConfig, model: ModelConfig, ranks: Agreement) -> Choice:
    if config.quantization != "none" and (reason := ranks.obstacle(_quantization_obstacle(config, ranks.device))):
        raise ConfigError(f"quantization={config.quantization} {reason}")
    dtype = _dtype_of_pytorch(config, ranks)
    if config.attention == "torch":
        return Choice("cuda", dtype, reason="attention=torch")
    if config.attention == "triton":
        if reason := ranks.obstacle(_triton_fault(config, model, ranks, dtype)):
            raise ConfigError(f"attention=triton {reason}")
        return Choice("cuda", dtype, "triton")
    if reason := ranks.obstacle(_triton_fault(config, model, ranks, dtype)):
        reason = f"attention=triton {reason}"
        logger.warning("attention by PyTorch's operations instead of our Triton kernels: %s", reason)
        return Choice("cuda", dtype, reason=reason)
    return Choice("cuda", dtype, "triton")


def _dtype_of_pytorch(config: EngineConfig, ranks: Agreement) -> torch.dtype:
    """`auto`: bfloat16 where the hardware multiplies it, else float16 on GPUs and float32 on CPUs."""
    if config.dtype != "auto":
        return _DTYPES[config.dtype]
    if ranks.device.type == "cuda":
        bfloat16, other = torch.cuda.is_bf16_supported(including_emulation=False), torch.float16
    else:
        bfloat16, other = torch.cpu._is_avx512_bf16_supported(), torch.float32
    return torch.bfloat16 if ranks.everywhere(bfloat16) else other


def _quantization_obstacle(config: EngineConfig, device: torch.device) -> str | None:
    try:
        from model.kernels.quantization import obstacle
    except ImportError as error:
        return f"here needs the package triton: {error}"
    return obstacle(config.quantization, device)


def _triton_obstacle(model: ModelConfig, device: torch.device, dtype: torch.dtype) -> str | None:
    try:
        from model.kernels.triton_attention import obstacle
    except ImportError as error:
        return f"needs the package triton: {error}"
    return obstacle(model, device, dtype)


def _triton_fault(config: EngineConfig, model: ModelConfig, ranks: Agreement, dtype: torch.dtype) -> str | None:
    """Why Triton's attention does not run here or is not right, or None. Compiles it: seconds, the first time."""
    if (reason := _triton_obstacle(model, ranks.device, dtype)) is not None:
        return reason
    if ranks.device.type == "cpu":
        return None  # interpreted, for tests, which compare it themselves
    started = time.monotonic()
    logger.info("compiling our kernels, and comparing them with their definition")
    try:
        from model.kernels import triton_check

        heads, stripes = model.n_head // ranks.group.size, ranks.group.stripe.count
        error = triton_check.max_error(
            model.n_embd, heads, model.head_dim, config.block_size, dtype, ranks.device, stripes
        )
    except Exception as failure:  # a compiler fails in many ways, and none of them may keep the model from serving
        return f"does not run here: {type(failure).__name__}: {failure}"
    logger.info("kernels compiled in %.1f s", time.monotonic() - started)
    return None if error <= tolerance(dtype) else f"is off by {error:.2g} on {ranks.device}"
