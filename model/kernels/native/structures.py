"""The structures of `forward.c`, field by field; what they point to is kept by whoever fills them."""

from __future__ import annotations

import ctypes

PHASES = ("embed", "norm", "qkv", "write", "attend", "proj", "fc", "out", "head")
"""Of a step, in the order in which `Step.spent` counts their nanoseconds."""

FACTS = ("activation_bytes", "row_padding", "int8_padding", "weights_in_blocks", "width_step")
"""Numbers by which the compiled variants differ: `starcoder_` and the name, integers of C."""

ACTIVATIONS = ("gelu_tanh", "gelu_erf", "relu")
"""As `enum activation` of activations.h numbers what `ModelConfig.activation` may be."""


class Weight(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("data", "bias", "scale", "shift", "exponents")]


class Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("ln1_w", "ln1_b", "ln2_w", "ln2_b")),
        *((name, Weight) for name in ("qkv", "proj", "fc", "out")),
    ]


class Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("layers", "heads", "kv_heads", "head_dim", "width", "inner", "vocab")),
        *((name, ctypes.c_int64) for name in ("own_width", "activation")),
        ("eps", ctypes.c_double),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("wte", "wpe", "lnf_w", "lnf_b")),
        ("head", Weight),
        ("layer", ctypes.c_void_p),
    ]


class Step(ctypes.Structure):
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
