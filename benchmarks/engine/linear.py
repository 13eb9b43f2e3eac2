"""`python -m benchmarks linear`: the time of single products of a model's layers, by the ways of computing them.

On a GPU, where 8-bit weights go through our kernel for few rows and another way for many: it shows what each gains over
PyTorch's bfloat16, and from how many rows the kernel loses (`model.kernels.linear_tiles.MOST_ROWS`). Every product
finds its weights in memory, not in a cache, and is launched from a CUDA graph, so that Python's time is not in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.engine.limits import copy_bandwidth, launch_seconds
from benchmarks.report import Result, Row, number
from benchmarks.shapes import SHAPES, shape_config
from model.config import ConfigError, ModelConfig, Quantization
from model.device import programs_of
from model.kernels.rounding import round_rows

Way = Callable[[torch.Tensor], torch.Tensor]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=sorted(SHAPES), default="15b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quantization", nargs="*", choices=("int8", "fp8"), default=["int8"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16, 32, 64, 128, 256, 512, 2048])
    parser.add_argument("--weights-mib", type=int, default=512, help="copies of the weights, beyond any cache")
    parser.add_argument("--tiles", action="store_true", help="which tiles the kernel should take: time all candidates")
    parser.add_argument("--seconds", type=float, default=60, help="of --tiles, after which no more are timed")


def layer_sizes(model: ModelConfig) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each kind of layer."""
    width, inner = model.n_embd, model.n_inner
    return {
        "c_attn": (width + 2 * model.n_kv_head * model.head_dim, width),
        "attn.c_proj": (width, width),
        "c_fc": (inner, width),
        "mlp.c_proj": (width, inner),
        "lm_head": (model.vocab_size, width),
    }


def ways(weight: torch.Tensor, quantization: Quantization, device: torch.device) -> dict[str, Way]:
    """Each way of multiplying by the weight, by name. Raises ConfigError where the device has none."""
    if quantization == "none":
        return {"plain": lambda x: F.linear(x, weight)}
    try:
        from model.kernels import triton_linear
        from model.kernels.quantization import multiplies_fp8, obstacle
    except ImportError as error:
        raise ConfigError(f"quantization={quantization} needs the package triton: {error}") from error
    if (reason := obstacle(quantization, device)) is not None:
        raise ConfigError(f"quantization={quantization} {reason}")
    data, scale = round_rows(weight, quantization)
    programs = programs_of(device)
    scratch = torch.empty(weight.numel(), dtype=weight.dtype, device=device)
    found: dict[str, Way] = {
        "kernel": lambda x: triton_linear.multiply(x, data, scale, None, programs),
        "widened": lambda x: triton_linear.multiply_widened(x, data, scale, None, scratch),
    }
    if quantization == "fp8" and multiplies_fp8(device):
        found["fp8 by fp8"] = lambda x: triton_linear.multiply_fp8(x, data, scale, None)
    return {f"{quantization} {name}": way for name, way in found.items()}


def seconds_of(copies: Sequence[Way], x: torch.Tensor) -> float:
    """Of one product; the copies have weights of their own and run one after another."""
    return launch_seconds([partial(way, x) for way in copies], x.device)


@torch.inference_mode()
def run(options: argparse.Namespace) -> Result:
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU")
    layers = layer_sizes(ModelConfig.model_validate(shape_config(options.shape)))
    if options.tiles:
        from benchmarks.engine import linear_tiles

        return linear_tiles.run(options, layers)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    copy = copy_bandwidth(device, 1 << 30 if device.type == "cuda" else 1 << 26)
    metrics: dict[str, float] = {"copy_gbytes_per_s": copy / 1e9}
    tables: dict[str, list[Row]] = {}
    for layer, (outputs, inputs) in layers.items():
        found: dict[str, list[float]] = {}
        for quantization in ("none", *options.quantization):
            weight_bytes = outputs * inputs * (dtype.itemsize if quantization == "none" else 1)
            count = max(1, (options.weights_mib << 20) // weight_bytes)
            copies = [
                ways(torch.randn(outputs, inputs, device=device).to(dtype), quantization, device) for _ in range(count)
            ]
            for name in copies[0]:
                found[name] = [
                    seconds_of([c[name] for c in copies], torch.randn(rows, inputs, device=device).to(dtype))
                    for rows in options.rows
                ]
                metrics |= {
                    f"{layer}/{name}/{rows}_us": 1e6 * s for rows, s in zip(options.rows, found[name], strict=True)
                }
                # of the pace at which a copy reads and writes
                share = 100 * weight_bytes / found[name][0] / copy
                metrics[f"{layer}/{name}/{options.rows[0]}_percent_of_copy"] = share
        rows_of_table: list[Row] = [("rows", *found)]
        rows_of_table += [
            (str(rows), *(number(1e6 * times[i]) for times in found.values())) for i, rows in enumerate(options.rows)
        ]
        tables[f"{layer}, {inputs:,} to {outputs:,}: microseconds"] = rows_of_table
    settings = {"shape": options.shape, "device": options.device, "dtype": str(dtype).removeprefix("torch.")}
    return Result("linear", {**settings, "quantization": options.quantization}, metrics, tables=tables)
