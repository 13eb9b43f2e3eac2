"""The forward pass in C (`model/kernels/native/`): weights in its layout, a batch in, logits out."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
import torch

from model.backends.backend import Weights, token_ids
from model.batch import Batch
from model.checkpoint.files import EMBEDDING
from model.config import ModelConfig, Quantization
from model.kernels.native.dimensions import Dimensions
from model.kernels.native.library import library
from model.kernels.native.packing import BLOCK, LANES, pack, pack_in_blocks, pack_int8
from model.kernels.native.structures import ACTIVATIONS, FACTS, Layer, Model, Step, Weight

QUERIES = 48
"""Of one head each, that forward.c attends to together."""
_PRODUCTS = {"attn.c_attn": "qkv", "attn.c_proj": "proj", "mlp.c_fc": "fc", "mlp.c_proj": "out"}
"""A layer's matrices by their names in checkpoints, as `Layer` calls them."""
_NORMS = {"ln_1.weight": "ln1_w", "ln_1.bias": "ln1_b", "ln_2.weight": "ln2_w", "ln_2.bias": "ln2_b"}


class NativeBackend:
    """Of a model and a machine that `support.obstacle` knows no obstacle for, in bfloat16, on one rank.

    quantization: "int8" rounds the linear layers' weights, and what they are multiplied with.
    spent: nanoseconds of each of PHASES, summed over the steps, if somebody puts an int64 array there.
    """

    head_is_copied = False
    spare_blocks = 0
    late_compilations = 0
    spent: npt.NDArray[np.int64] | None = None

    def __init__(self, model: ModelConfig, quantization: Quantization, weights: Weights) -> None:
        kernel = library()
        self._forward = kernel.starcoder_forward
        facts = {name: ctypes.c_int.in_dll(kernel, f"starcoder_{name}").value for name in FACTS}
        self._activations = torch.float32 if facts["activation_bytes"] == 4 else torch.bfloat16
        self._padding, self._int8_padding = facts["row_padding"], facts["int8_padding"]
        self._in_blocks = bool(facts["weights_in_blocks"])
        self._config = model
        self._dimensions = sizes = Dimensions(model, facts["width_step"])
        self.head_dim = sizes.head_dim
        self._int8 = quantization == "int8"
        self._held: list[torch.Tensor] = []
        self._layers = (Layer * model.n_layer)()
        self._model = Model(
            layers=model.n_layer,
            heads=model.n_head,
            kv_heads=model.n_kv_head,
            head_dim=sizes.head_dim,
            width=sizes.width,
            inner=sizes.inner,
            vocab=model.vocab_size,
            own_width=model.n_embd,
            activation=ACTIVATIONS.index(model.activation),
            eps=model.layer_norm_epsilon,
            scale=model.head_dim**-0.5 if model.scale_attn_weights else 1.0,
            layer=ctypes.addressof(self._layers),
        )
        self._logits = torch.empty(0)
        self._room = 0
        self._x = self._y = self._h = self._qkv = self._mid = self._few_h = self._few_q = torch.empty(0)
        self._q = self._q_scale = torch.empty(0)
        self._saved = 0
        self.parameter_bytes = weights(self._place) - self._saved

    def _place(self, name: str, value: torch.Tensor) -> None:
        """Give a parameter to C. The embedding comes before a tied head, which is told by its memory."""
        own = value.nbytes
        value = self._dimensions.filled(name, value)
        if name != EMBEDDING:  # of which a tied head, which counts, is a copy
            self._saved += own - value.nbytes
        match name.split("."):
            case ["wte" | "wpe" as table, "weight"]:
                setattr(self._model, table, self._hold(value))
            case ["ln_f", kind]:
                setattr(self._model, f"lnf_{kind[0]}", self._floats(value))
            case ["lm_head", "weight"]:
                self._pack(self._model.head, value)
            case ["h", number, *rest]:
                self._place_in_layer(self._layers[int(number)], ".".join(rest), value)
            case _:
                raise AssertionError(f"the kernel knows no parameter {name}")

    def _place_in_layer(self, layer: Layer, name: str, value: torch.Tensor) -> None:
        if name in _NORMS:
            setattr(layer, _NORMS[name], self._floats(value))
            return
        product, _, kind = name.rpartition(".")
        weight: Weight = getattr(layer, _PRODUCTS[product])
        if kind == "bias":
            weight.bias = self._floats(value)
        else:
            self._pack(weight, value)

    def _pack(self, weight: Weight, value: torch.Tensor) -> None:
        # The embedding is kept as it is: a tied head is a packed copy of it.
        own = value.data_ptr() != self._model.wte
        if not self._int8 and not self._in_blocks:
            weight.data = self._hold(pack(value, in_place=own))
            return
        if not self._int8:
            blocked = pack_in_blocks(value, in_place=own)
            self._saved -= blocked.exponents.nbytes
            weight.data, weight.exponents = self._hold(blocked.data), self._hold(blocked.exponents)
            return
        packed = pack_int8(value)
        held = (packed.data, packed.scale, packed.shift)
        self._saved += value.nbytes - sum(t.nbytes for t in held)
        weight.data, weight.scale, weight.shift = map(self._hold, held)

    def _floats(self, values: torch.Tensor) -> int:
        return self._hold(values.float().contiguous())

    def _hold(self, tensor: torch.Tensor) -> int:
        self._held.append(tensor)
        return tensor.data_ptr()

    def warm_up(self, cache: torch.Tensor, drawn: torch.Tensor, max_model_len: int) -> None:
        """Nothing is to be done before the first step."""

    def run(self, batch: Batch, cache: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor | None:
        """Logits [R, vocabulary] in float32, None where no row wants any. They are overwritten by the next call.

        cache: [layers, 2, blocks, block_size, kv_heads, self.head_dim], contiguous bfloat16.
        """
        tokens, rows = len(batch.tokens), len(batch.logit_rows)
        token_array = token_ids(batch, drawn).numpy()
        self._make_room(max(tokens, rows), rows)
        owner = np.repeat(np.arange(len(batch.query_lens)), batch.query_lens)
        runs = self._runs(batch.query_lens, owner)
        arrays = [
            np.ascontiguousarray(a)
            for a in (token_array, batch.positions, batch.slots, owner, runs, batch.block_tables, batch.logit_rows)
        ]
        ids, positions, slots, owners, run_starts, tables, logit_rows = (a.ctypes.data for a in arrays)
        step = Step(
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
        sharing = self._config.n_head // self._config.n_kv_head
        tokens, longest = len(owner), max(1, QUERIES // sharing)
        if tokens < 4 * longest * torch.get_num_threads():  # too few runs to share out evenly
            longest = 1
        place = np.arange(tokens) - (np.cumsum(query_lens) - query_lens)[owner]
        return np.append(np.flatnonzero(place % longest == 0), tokens)

    def _make_room(self, tokens: int, rows: int) -> None:
        """Buffers grow to the largest step that was seen, and stay."""
        sizes = self._dimensions
        normed = sizes.width + self._padding
        if tokens > self._room:
            self._room = tokens = _whole_tiles(tokens)
            self._x = torch.empty(tokens, sizes.width)
            attended = sizes.queries + self._padding
            self._h = torch.empty(tokens, max(normed, attended), dtype=self._activations)
            self._qkv = torch.empty(tokens, sizes.qkv, dtype=torch.bfloat16)
            self._mid = torch.empty(tokens, sizes.inner + self._padding, dtype=self._activations)
            if self._int8:
                self._q = torch.empty(tokens, sizes.longest + self._int8_padding, dtype=torch.uint8)
                self._q_scale = torch.empty(tokens)
            elif self._in_blocks:
                self._q = torch.empty(tokens, sizes.longest + self._padding, dtype=torch.int16)
                self._q_scale = torch.empty(tokens, -(-sizes.longest // BLOCK))
        if rows > len(self._logits):
            self._y = torch.empty(rows, sizes.width)
            self._few_h = torch.empty(_whole_tiles(rows), normed, dtype=self._activations)
            self._few_q = torch.empty(rows, sizes.queries, dtype=torch.bfloat16)
            self._logits = torch.empty(rows, -(-self._config.vocab_size // LANES) * LANES)


def _whole_tiles(rows: int) -> int:
    """AMX takes in 16 rows at a time, of which those that are not there come to nothing that is kept."""
    return -(-rows // LANES) * LANES
