"""The network that `forward.c` runs: weights in its layout, a batch in, logits out."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model.batch import Batch
from model.config import ModelConfig, Quantization
from model.kernels.native.library import Unavailable, library
from model.kernels.rounding import round_rows
from model.network.gpt_bigcode import Block, GPTBigCode
from model.network.layers import Linear

LANES = 16
BLOCK = 64
QUERIES = 48
"""Of one head each, that forward.c attends to together."""
PHASES = ("embed", "norm", "qkv", "write", "attend", "proj", "fc", "out", "head")
HEAD_DIM_STEP = 64
_TANH_GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")


class _Weight(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("data", "bias", "scale", "shift", "exponents")]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("ln1_w", "ln1_b", "ln2_w", "ln2_b")),
        *((name, _Weight) for name in ("qkv", "proj", "fc", "out")),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("layers", "heads", "head_dim", "width", "inner", "vocab")),
        ("eps", ctypes.c_double),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("wte", "wpe", "lnf_w", "lnf_b")),
        ("head", _Weight),
        ("layer", ctypes.c_void_p),
    ]


class _Step(ctypes.Structure):
    _fields_ = [
        ("tokens", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("ids", "positions", "slots", "owner")),
        ("num_runs", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("runs", "tables")),
        ("table_stride", ctypes.c_int64),
        ("logit_rows", ctypes.c_void_p),
        ("cache", ctypes.c_void_p),
        ("blocks", ctypes.c_int64),
        ("block_size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("logits", "x", "y", "h", "qkv", "mid", "few_h", "few_q")),
        *((name, ctypes.c_void_p) for name in ("q", "q_scale", "spent")),
    ]


def pack(weight: torch.Tensor, in_place: bool = False) -> torch.Tensor:
    """[N, K] -> [ceil(N / 16), K / 2, 16, 2] in bfloat16, missing rows zero. K is even.

    in_place: where it can be (contiguous bfloat16, no row missing) the weight's own memory is used, tile by tile: to a
    system that hands out memory in pages of 4 KB, new memory costs more than what is done with it.
    """
    outputs, inputs = weight.shape
    tiles = -(-outputs // LANES)
    rows = weight if outputs % LANES == 0 else torch.nn.functional.pad(weight, (0, 0, 0, tiles * LANES - outputs))
    whole = rows.to(torch.bfloat16).contiguous()
    pairs = whole.view(torch.int32).view(tiles, LANES, inputs // 2)
    out = pairs if in_place and whole.data_ptr() == weight.data_ptr() else torch.empty_like(pairs)
    some = max(1, (1 << 18) // (LANES * inputs))
    for first in range(0, tiles, some):
        part = pairs[first : first + some].transpose(1, 2).contiguous()
        out[first : first + some] = part.view(-1, LANES, inputs // 2)
    return out.view(torch.bfloat16).view(tiles, inputs // 2, LANES, 2)


@dataclass(frozen=True)
class BlockedWeight:
    """As products_int16.h has it: a weight is `data` [ceil(N / 16), K / 2, 16, 2] in int16 times a power of two, whose
    exponent and 127 stand in `exponents` [ceil(N / 16), ceil(K / 64), 16], uint8: one for 64 weights of an output."""

    data: torch.Tensor
    exponents: torch.Tensor


def pack_in_blocks(weight: torch.Tensor, in_place: bool = False) -> BlockedWeight:
    """Round to multiples of a power of two, the least of which 4,095 hold a block's largest weight. K is even.

    in_place: as `pack` has it. Raises AttributeError where the variant of this CPU knows no blocks.
    """
    outputs, inputs = weight.shape
    tiles, blocks = -(-outputs // LANES), -(-inputs // BLOCK)
    reuse = in_place and weight.dtype is torch.bfloat16 and weight.is_contiguous() and outputs % LANES == 0
    data = weight if reuse else torch.zeros(tiles * LANES, inputs, dtype=torch.bfloat16)
    if not reuse:
        data[:outputs] = weight
    exponents = torch.empty(tiles, blocks, LANES, dtype=torch.uint8)
    to_blocks = library().starcoder_to_blocks
    to_blocks(data.data_ptr(), exponents.data_ptr(), len(data), inputs, torch.get_num_threads())
    return BlockedWeight(data.view(torch.int16).view(tiles, inputs // 2, LANES, 2), exponents)


@dataclass(frozen=True)
class Int8Weight:
    """A weight is `data` [ceil(N / 16), K / 4, 16, 4] times its row's scale; shift: 128 times a row's sum of data."""

    data: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor


def pack_int8(weight: torch.Tensor) -> Int8Weight:
    """Round each output's weights to 8 bits by its largest one. K is a multiple of 4."""
    outputs, inputs = weight.shape
    tiles = -(-outputs // LANES)
    data, scale = round_rows(torch.nn.functional.pad(weight, (0, 0, 0, tiles * LANES - outputs)), "int8")
    shift = 128 * data.sum(dim=1, dtype=torch.int32)
    return Int8Weight(
        data.view(tiles, LANES, inputs // 4, 4).permute(0, 2, 1, 3).contiguous(), scale, shift.to(torch.int32)
    )


def obstacle(config: ModelConfig, ranks: int, dtype: torch.dtype) -> str | None:
    """Why the kernel cannot run this model here, or None."""
    if dtype is not torch.bfloat16:
        return f"weights are {str(dtype).removeprefix('torch.')}, not bfloat16"
    if ranks > 1:
        return "tensor parallelism"
    if not config.multi_query:
        return "attention is not multi-query"
    if config.activation_function not in _TANH_GELU:
        return f"activation {config.activation_function}"
    if config.head_dim % HEAD_DIM_STEP or config.n_embd % LANES or config.n_inner % LANES:
        return f"heads of {config.head_dim}, width {config.n_embd}, inner width {config.n_inner}"
    try:
        library()
    except Unavailable as error:
        return str(error)
    return None


class NativeNetwork:
    """Takes over the weights of a loaded network: theirs are freed one by one, so that two copies never exist.

    Raises Unavailable where the kernel cannot run or does not know the model; the network is then as it was.
    quantization: "int8" rounds the linear layers' weights, and what they are multiplied with.
    parameter_bytes: what the network counted, less what 8 bits save, or with the exponents of blocks.
    spent: nanoseconds of each of PHASES, summed over the steps, if somebody puts an int64 array there.
    """

    spent: npt.NDArray[np.int64] | None = None

    def __init__(self, network: GPTBigCode, dtype: torch.dtype, quantization: Quantization = "none") -> None:
        if (reason := obstacle(network.config, network.group.size, dtype)) is not None:
            raise Unavailable(reason)
        kernel = library()
        self._forward = kernel.starcoder_forward
        wide = ctypes.c_int.in_dll(kernel, "starcoder_activation_bytes").value == 4
        self._activations = torch.float32 if wide else torch.bfloat16
        self._padding = ctypes.c_int.in_dll(kernel, "starcoder_row_padding").value
        self._in_blocks = bool(ctypes.c_int.in_dll(kernel, "starcoder_weights_in_blocks").value)
        self._config = config = network.config
        self._int8 = quantization == "int8"
        self._held: list[torch.Tensor] = []
        self._saved = 0
        self._layers = (_Layer * config.n_layer)()
        self._embedding = network.wte.weight.data_ptr()
        for layer, block in zip(self._layers, network.h, strict=True):
            assert isinstance(block, Block)
            layer.ln1_w, layer.ln1_b = self._floats(block.ln_1.weight), self._floats(block.ln_1.bias)
            layer.ln2_w, layer.ln2_b = self._floats(block.ln_2.weight), self._floats(block.ln_2.bias)
            layer.qkv, layer.proj = self._weight(block.attn.c_attn), self._weight(block.attn.c_proj)
            layer.fc, layer.out = self._weight(block.mlp.c_fc), self._weight(block.mlp.c_proj)
        # The embedding is kept as it is: a tied head is a packed copy of it.
        self._model = _Model(
            layers=config.n_layer,
            heads=config.n_head,
            head_dim=config.head_dim,
            width=config.n_embd,
            inner=config.n_inner,
            vocab=config.vocab_size,
            eps=config.layer_norm_epsilon,
            scale=config.head_dim**-0.5 if config.scale_attn_weights else 1.0,
            wte=self._hold(network.wte.weight.data),
            wpe=self._hold(network.wpe.weight.data),
            lnf_w=self._floats(network.ln_f.weight),
            lnf_b=self._floats(network.ln_f.bias),
            head=self._weight(network.lm_head),
            layer=ctypes.addressof(self._layers),
        )
        self._logits = torch.empty(0)
        self._room = 0
        self._x = self._y = self._h = self._qkv = self._mid = self._few_h = self._few_q = torch.empty(0)
        self._q = self._q_scale = torch.empty(0)
        self.parameter_bytes = network.parameter_bytes - self._saved

    def _weight(self, linear: Linear) -> _Weight:
        bias = None if linear.bias is None else self._floats(linear.bias)
        weight = linear.weight.data
        linear.weight.data = torch.empty(0, dtype=weight.dtype)
        own = weight.data_ptr() != self._embedding
        if not self._int8 and not self._in_blocks:
            return _Weight(data=self._hold(pack(weight, in_place=own)), bias=bias)
        if not self._int8:
            blocked = pack_in_blocks(weight, in_place=own)
            self._saved -= blocked.exponents.numel()
            return _Weight(data=self._hold(blocked.data), bias=bias, exponents=self._hold(blocked.exponents))
        packed = pack_int8(weight)
        held = [packed.data, packed.scale, packed.shift]
        self._saved += weight.numel() * weight.element_size() - sum(t.numel() * t.element_size() for t in held)
        data, scale, shift = map(self._hold, held)
        return _Weight(data=data, bias=bias, scale=scale, shift=shift)

    def _floats(self, values: torch.Tensor) -> int:
        return self._hold(values.data.float().contiguous())

    def _hold(self, tensor: torch.Tensor) -> int:
        self._held.append(tensor)
        return tensor.data_ptr()

    def run(self, batch: Batch, cache: torch.Tensor) -> torch.Tensor | None:
        """Logits [R, vocabulary] in float32, None where no row wants any. They are overwritten by the next call.

        cache: [layers, 2, blocks, block_size, 1, head_dim], contiguous bfloat16.
        """
        tokens, rows = len(batch.tokens), len(batch.logit_rows)
        self._make_room(max(tokens, rows), rows)
        owner = np.repeat(np.arange(len(batch.query_lens)), batch.query_lens)
        runs = self._runs(batch.query_lens, owner)
        arrays = [
            np.ascontiguousarray(a)
            for a in (batch.tokens, batch.positions, batch.slots, owner, runs, batch.block_tables, batch.logit_rows)
        ]
        ids, positions, slots, owners, run_starts, tables, logit_rows = (a.ctypes.data for a in arrays)
        step = _Step(
            tokens=tokens,
            rows=rows,
            ids=ids,
            positions=positions,
            slots=slots,
            owner=owners,
            num_runs=len(runs) - 1,
            runs=run_starts,
            tables=tables,
            table_stride=batch.block_tables.shape[1],
            logit_rows=logit_rows,
            cache=cache.data_ptr(),
            blocks=cache.shape[2],
            block_size=cache.shape[3],
            logits=self._logits.data_ptr(),
            x=self._x.data_ptr(),
            y=self._y.data_ptr(),
            h=self._h.data_ptr(),
            qkv=self._qkv.data_ptr(),
            mid=self._mid.data_ptr(),
            few_h=self._few_h.data_ptr(),
            few_q=self._few_q.data_ptr(),
            q=self._q.data_ptr(),
            q_scale=self._q_scale.data_ptr(),
            spent=None if self.spent is None else self.spent.ctypes.data,
        )
        self._forward(ctypes.byref(self._model), ctypes.byref(step), torch.get_num_threads())
        return self._logits[:rows, : self._config.vocab_size] if rows else None

    def _runs(self, query_lens: npt.NDArray[np.int64], owner: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where the runs of tokens start whose queries are attended to together, and the batch's length."""
        tokens, longest = len(owner), max(1, QUERIES // self._config.n_head)
        if tokens < 4 * longest * torch.get_num_threads():  # too few runs to share out evenly
            longest = 1
        place = np.arange(tokens) - (np.cumsum(query_lens) - query_lens)[owner]
        return np.append(np.flatnonzero(place % longest == 0), tokens)

    def _make_room(self, tokens: int, rows: int) -> None:
        """Buffers grow to the largest step that was seen, and stay."""
        config = self._config
        if tokens > self._room:
            self._room = tokens
            self._x = torch.empty(tokens, config.n_embd)
            self._h = torch.empty(tokens, config.n_embd + self._padding, dtype=self._activations)
            self._qkv = torch.empty(tokens, config.n_embd + 2 * config.head_dim, dtype=torch.bfloat16)
            self._mid = torch.empty(tokens, config.n_inner + self._padding, dtype=self._activations)
            longest = max(config.n_embd, config.n_inner)
            if self._int8:
                self._q = torch.empty(tokens, longest, dtype=torch.uint8)
                self._q_scale = torch.empty(tokens)
            elif self._in_blocks:
                self._q = torch.empty(tokens, longest + self._padding, dtype=torch.int16)
                self._q_scale = torch.empty(tokens, -(-longest // BLOCK))
        if rows > len(self._logits):
            self._y = torch.empty(rows, config.n_embd)
            self._few_h = torch.empty(rows, config.n_embd + self._padding, dtype=self._activations)
            self._few_q = torch.empty(rows, config.n_embd, dtype=torch.bfloat16)
            self._logits = torch.empty(rows, -(-config.vocab_size // LANES) * LANES)
