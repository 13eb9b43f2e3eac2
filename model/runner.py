"""One rank: its share of the network and of the cache; a batch in, logits out."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

import msgspec
import torch

from model.batch import Batch, resolve
from model.checkpoint.hub import resolve_checkpoint
from model.checkpoint.memory import activation_bytes, block_bytes, cache_shape, scratch_values
from model.checkpoint.weights import Placed, Progress, load_weights, random_weights
from model.config import ConfigError, EngineConfig, ModelConfig
from model.device import programs_of, to_device
from model.kernels import cuda_graphs
from model.kernels.cuda_graphs import DecodeGraphs, Record
from model.kernels.native.library import Unavailable
from model.kernels.native.network import NativeNetwork, obstacle
from model.network.attention import AttentionPlan, Kernel
from model.network.gpt_bigcode import GPTBigCode
from model.network.parallel import TensorParallel
from model.statistics import GpuMemory

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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


def choose_device(device: str, rank: int) -> torch.device:
    """The rank's device. A process that sees one GPU uses that one, whatever its rank."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("device=cuda, but PyTorch sees no CUDA device here")
    return torch.device("cuda", rank % torch.cuda.device_count())


def choose_dtype(config: EngineConfig, model: ModelConfig, ranks: int, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 where the hardware or our own kernels multiply it (float16 on older GPUs), else float32."""
    if config.dtype != "auto":
        return _DTYPES[config.dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    ours = config.cpu_kernels != "torch" and config.attention != "triton"
    return torch.bfloat16 if ours and obstacle(model, ranks, torch.bfloat16) is None else torch.float32


def max_model_len(config: EngineConfig, model: ModelConfig) -> int:
    """The longest sequence served. Raises ConfigError where more is asked for than the positions learned."""
    if config.max_model_len is not None and config.max_model_len > model.n_positions:
        raise ConfigError(
            f"max_model_len={config.max_model_len} is beyond the model's window of {model.n_positions} positions"
        )
    return config.max_model_len or model.n_positions


class TritonKernels:
    """Makes steps' attention kernels. Raises ConfigError where Triton's cannot run."""

    def __init__(self, model: ModelConfig, ranks: int, device: torch.device) -> None:
        try:
            from model.kernels import triton_attention
        except ImportError as error:
            raise ConfigError(f"attention=triton needs the package triton: {error}") from error
        if device.type == "cpu" and not triton_attention.INTERPRETED:
            raise ConfigError("attention=triton needs a GPU (or TRITON_INTERPRET=1, for tests)")
        if not model.multi_query or model.head_dim < 16 or model.head_dim & (model.head_dim - 1):
            raise ConfigError(
                "attention=triton needs a multi-query model whose heads are 16, 32, 64, ... wide; "
                f"here multi_query={model.multi_query}, head_dim={model.head_dim}"
            )
        self._module = triton_attention
        self._device = device
        self.heads, self.width = model.n_head // ranks, model.head_dim
        self._programs = programs_of(device) * (2 if device.type == "cuda" else 1)

    def of(self, batch: Batch) -> Kernel:
        """For a batch as it is."""
        plan = self._module.TritonPlan.of(batch, self.heads, self._device, self._programs)
        return lambda queries, cache, scale: self._module.attend(queries, cache, plan, scale)

    def of_decodes(self, contexts: torch.Tensor, tables: torch.Tensor, longest: int) -> Kernel:
        """For decodes whose contexts [S] and block tables [S, n] change behind it, up to `longest` tokens."""
        plan = self._module.TritonPlan.of_decodes(contexts, tables, self.heads, self._programs, longest)
        return lambda queries, cache, scale: self._module.attend(queries, cache, plan, scale)

    def check(self, block_size: int, dtype: torch.dtype) -> None:
        """Raises RuntimeError if the kernels' answer on this device is not the definition's."""
        error = self._module.differs(self.heads, self.width, block_size, dtype, self._device)
        allowed = 1e-3 if dtype is torch.float32 else 5e-2
        if not error <= allowed:
            raise RuntimeError(f"the Triton kernels are off by {error:.2g} on {self._device}")


def choose_kernels(
    config: EngineConfig, model: ModelConfig, ranks: int, device: torch.device, dtype: torch.dtype
) -> TritonKernels | None:
    """Triton's where they are asked for, and with `auto` on a GPU where they run and give the right answer.

    The check takes the seconds that compiling them takes anyway. Raises ConfigError.
    """
    if config.attention == "triton":
        return TritonKernels(model, ranks, device)
    if config.attention == "torch" or device.type == "cpu":
        return None
    try:
        kernels = TritonKernels(model, ranks, device)
        kernels.check(config.block_size, dtype)
    except Exception as error:  # a compiler fails in many ways, and none of them may keep the model from serving
        logger.warning("attention by PyTorch's operations instead of our Triton kernels: %s", error)
        return None
    return kernels


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
        self.group = group
        self.device = device
        self.dtype = choose_dtype(config, self.model, group.size, self.device)
        self.block_size = config.block_size
        self.network = self._load(config, directory, progress)
        self.native = self._speed_up(config)
        self._kernels = choose_kernels(config, self.model, group.size, self.device, self.dtype)
        self.max_model_len = max_model_len(config, self.model)
        self.num_kv_blocks = self._num_kv_blocks(config)
        recorded = self._kernels is not None and config.cuda_graphs and self.device.type == "cuda"
        # a block more for the rows that fill recorded steps
        shape = cache_shape(self.model, group.size, self.num_kv_blocks + recorded, self.block_size)
        self.cache = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self._drawn = torch.zeros(config.max_num_seqs, dtype=torch.int64, device=self.device)
        self.graphs = self.record_decodes(config.max_num_seqs) if recorded else None
        self.report = LoadReport(
            rank=group.rank,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            parameter_bytes=(self.native or self.network).parameter_bytes,
            load_seconds=time.monotonic() - started,
            num_kv_blocks=self.num_kv_blocks,
            kv_cache_bytes=self.cache.numel() * self.cache.element_size(),
            block_size=self.block_size,
            max_model_len=self.max_model_len,
        )

    @torch.inference_mode()
    def record_decodes(self, largest: int, record: Record = cuda_graphs.record) -> DecodeGraphs:
        """Record the decode steps of up to `largest` sequences. The cache's last block belongs to nobody."""
        kernels = self._kernels
        assert kernels is not None, "the steps of PyTorch's attention are not of a fixed size"
        return DecodeGraphs(
            lambda tokens, positions, plan: self.network(tokens, positions, self.cache, plan),
            lambda contexts, tables: kernels.of_decodes(contexts, tables, self.max_model_len),
            self._drawn,
            largest=largest,
            table_width=-(-self.max_model_len // self.block_size),
            block_size=self.block_size,
            spare_block=self.cache.shape[2] - 1,
            record=record,
        )

    def _load(self, config: EngineConfig, directory: Path, progress: Progress) -> GPTBigCode:
        with torch.device("meta"):
            network = GPTBigCode(self.model, self.group)
        placed = self._quantizer(config, network)
        if config.load_format == "random":
            random_weights(network, self.device, self.dtype, config.seed, placed)
        else:
            load_weights(network, directory, self.device, self.dtype, progress, placed)
        network.eval()
        network.note_size()
        if self.device.type == "cuda":
            # what plain weights took is the driver's again: the cache is sized by what it says
            torch.cuda.empty_cache()
        return network

    def _quantizer(self, config: EngineConfig, network: GPTBigCode) -> Placed:
        """What rounds a layer once it is loaded, if our Triton kernels multiply by it. Raises ConfigError."""
        if config.quantization == "none":
            return lambda _: None
        if self.device.type == "cpu" and config.attention != "triton":
            if config.quantization != "int8":
                raise ConfigError(f"quantization={config.quantization} needs a GPU; on a CPU there is int8")
            return lambda _: None  # `_speed_up` rounds
        try:
            from model.kernels.quantization import Quantizer
        except ImportError as error:
            raise ConfigError(f"quantization={config.quantization} here needs the package triton: {error}") from error
        return Quantizer(config.quantization, self.device, self.dtype, scratch_values(network))

    def _speed_up(self, config: EngineConfig) -> NativeNetwork | None:
        """On a CPU: our own forward pass where it can run, else weights in oneDNN's layout. Raises ConfigError."""
        if self.device.type != "cpu":
            return None
        if config.attention == "triton":
            if config.cpu_kernels == "native":
                raise ConfigError(
                    "attention=triton and cpu_kernels=native exclude each other: native attends by itself"
                )
            if config.quantization != "none":
                return None  # `_quantizer` has seen to it
        elif config.cpu_kernels == "torch":
            if config.quantization != "none":
                raise ConfigError(f"quantization={config.quantization} needs our own kernels, not cpu_kernels=torch")
        else:
            try:
                return NativeNetwork(self.network, self.dtype, config.quantization)
            except Unavailable as error:
                if config.quantization != "none":
                    raise ConfigError(f"quantization={config.quantization} cannot be had: {error}") from error
                if config.cpu_kernels == "native":
                    raise ConfigError(f"cpu_kernels=native cannot be had: {error}") from error
                logger.info("PyTorch's kernels run instead of ours: %s", error)
        if self.dtype is torch.bfloat16 and torch.backends.mkldnn.is_available():
            self.network.pack()
        return None

    def _num_kv_blocks(self, config: EngineConfig) -> int:
        """Cache blocks by configuration or by memory. Raises ConfigError where one full sequence would not fit."""
        bytes_of_block = block_bytes(self.model, self.group.size, self.block_size, self.dtype.itemsize)
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
        if self.native is not None:
            if batch.awaits:
                batch = dataclasses.replace(batch, tokens=self._tokens(batch).numpy(), drawn_rows=None)
            return self.native.run(batch, self.cache)
        if self.graphs is not None and self.graphs.fit(batch):
            hidden = self.graphs.run(batch)
        else:
            positions, rows = to_device(batch.positions, self.device), to_device(batch.logit_rows, self.device)
            hidden = self.network(self._tokens(batch), positions, self.cache, self._plan(batch), rows)
        return self.network.logits(hidden) if len(batch.logit_rows) else None

    def _plan(self, batch: Batch) -> AttentionPlan:
        if self._kernels is not None:
            return AttentionPlan.by_kernel(to_device(batch.slots, self.device), self._kernels.of(batch))
        return AttentionPlan.of(batch, self.block_size, self.device, self.dtype)

    def _tokens(self, batch: Batch) -> torch.Tensor:
        """The batch's tokens [T] on the device, those that the step before drew among them."""
        tokens = to_device(batch.tokens, self.device)
        if batch.drawn_rows is None:
            return tokens
        return resolve(tokens, to_device(batch.drawn_rows, self.device), self._drawn)

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
