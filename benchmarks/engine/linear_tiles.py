"""`python -m benchmarks linear --tiles`: which tiles products with 8-bit weights should take.

What it finds is written down in `model.kernels.linear_tiles`. Every candidate is compiled beforehand, by processes side
by side; its product is compared with one in float32, and its time is that of launches from a CUDA graph, each with
weights that are in no cache. What does not compile or is wrong is named and left out.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

import torch
import torch.nn.functional as F

from benchmarks.engine.limits import best_seconds, copy_bandwidth
from benchmarks.report import Result, Row, number
from model.config import Quantization
from model.device import programs_of
from model.kernels.linear_tiles import LARGE, Tile, row_class
from model.kernels.rounding import FORMATS, round_rows

Way = Callable[[torch.Tensor], torch.Tensor]
Times = dict[tuple[str, int], dict[str, dict[str, float]]]
"""Seconds by kind of weights and rows, by way, by layer."""

_EIGHT = (
    Tile(8, 64, 128, 5, warps=2, resident=3),
    Tile(8, 64, 128, 5, warps=2, resident=3, joins=False),
    Tile(8, 64, 128, 4, warps=2, resident=6),
    Tile(8, 64, 256, 4, warps=2, resident=3),
    Tile(8, 32, 256, 4, warps=1, resident=6),
    Tile(8, 32, 256, 5, warps=2, resident=3),
    Tile(8, 16, 256, 5, warps=1, resident=3),
    Tile(8, 64, 128, 5, warps=4, resident=3),
)
_SIXTEEN = (
    Tile(16, 64, 128, 5, warps=2, resident=3),
    Tile(16, 64, 128, 4, warps=2, resident=6),
    Tile(16, 32, 128, 5, warps=2, resident=6),
    Tile(16, 32, 128, 5, warps=1, resident=6),
    Tile(16, 32, 256, 4, warps=2, resident=3),
    Tile(16, 16, 256, 4, warps=1, resident=3),
    Tile(16, 64, 64, 6, warps=4, resident=3),
)
_THIRTY_TWO = (
    Tile(32, 64, 128, 4, warps=2, resident=3),
    Tile(32, 64, 64, 5, warps=2, resident=6),
    Tile(32, 128, 64, 5, warps=4, resident=3),
    Tile(32, 64, 64, 6, warps=4, resident=3),
)
_SIXTY_FOUR = (
    Tile(32, 64, 64, 5, warps=2, resident=3, blocks=2),
    Tile(64, 128, 64, 4, warps=4, resident=2),
    Tile(64, 128, 64, 4, warps=8, resident=2),
    Tile(64, 128, 64, 4, warps=8, resident=3),
    Tile(64, 128, 32, 6, warps=8, resident=3),
    Tile(64, 64, 64, 5, warps=4, resident=3),
)
_MANY = (
    Tile(128, 128, 64, 4, warps=8, resident=2),
    Tile(128, 64, 64, 3, warps=4, resident=3),
    Tile(64, 128, 64, 4, warps=8, resident=3),
    Tile(128, 128, 64, 4, warps=4, resident=2),
    Tile(128, 128, 32, 6, warps=8, resident=2),
    Tile(128, 256, 64, 3, warps=8, resident=1),
    Tile(256, 128, 32, 4, warps=8, resident=1),
)
CANDIDATES = {8: _EIGHT, 16: _SIXTEEN, 32: _THIRTY_TWO, 64: _SIXTY_FOUR, 128: _MANY, 256: _MANY}
"""By class of rows. Each sizes one thing differently: what a program holds, how much is on its way, how far inputs are
split."""
ROWS = (1, 16, 32, 64, 128, 256)
LIMIT = 1e-2
LIMIT_FP8_BY_FP8 = 5e-2


def name_of(tile: Tile) -> str:
    """Blocks and rows, outputs, depth, stages, warps, resident programs."""
    short = f"{tile.blocks}x{tile.rows} o{tile.outputs} d{tile.depth} s{tile.stages} w{tile.warps} r{tile.resident}"
    return short if tile.joins else f"{short} two kernels"


@dataclass
class Sweep:
    """What is timed with what, and what came of it. refused: why a way has no times."""

    layers: dict[str, tuple[int, int]]
    kinds: Sequence[Quantization]
    rows: Sequence[int]
    device: torch.device
    dtype: torch.dtype
    weights_bytes: int
    until: float
    times: Times = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def compile(self) -> None:
        """Every variant that will be launched, into Triton's cache."""
        programs = programs_of(self.device)
        capability = 10 * torch.cuda.get_device_capability(self.device)[0]
        capability += torch.cuda.get_device_capability(self.device)[1]
        wanted = {
            (kind, tile, tile.splits(rows, outputs, inputs, programs) > 1)
            for kind, rows, (outputs, inputs) in itertools.product(self.kinds, self.rows, self.layers.values())
            for tile in CANDIDATES[row_class(rows)]
        }
        jobs = sorted(wanted, key=lambda job: -job[1].rows * job[1].outputs)  # the longest first
        with ProcessPoolExecutor(max(1, (os.cpu_count() or 2) - 1), mp_context=get_context("spawn")) as pool:
            results = pool.map(compile_one, itertools.repeat(capability), *zip(*jobs, strict=True))
            for (kind, tile, _), error in zip(jobs, results, strict=True):
                if error is not None:
                    self.refused[f"{kind} {name_of(tile)}"] = error

    def time(self, layer: str) -> None:
        """All ways for one layer."""
        outputs, inputs = self.layers[layer]
        # each launch after all other weights have been read
        count = max(2, -(-self.weights_bytes // (outputs * inputs)))
        weights = [torch.randn(outputs, inputs, device=self.device).to(self.dtype) for _ in range(count)]
        x = torch.randn(max(self.rows), inputs, device=self.device).to(self.dtype)
        plain: list[Way] = [lambda x, w=w: F.linear(x, w) for w in weights]  # type: ignore[misc]
        for rows in self.rows:
            self._add("none", rows, "plain", layer, plain, x[:rows], F.linear(x[:rows].float(), weights[0].float()))
        for kind in self.kinds:
            rounded = [round_rows(w, kind) for w in weights]
            exact = F.linear(x.float(), rounded[0][0].float() * rounded[0][1][:, None])
            for rows in self.rows:
                for name, ways in self._ways(kind, rows, rounded).items():
                    self._add(kind, rows, name, layer, ways, x[:rows], exact[:rows])

    def _ways(
        self, kind: Quantization, rows: int, rounded: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> dict[str, list[Way]]:
        from model.kernels import triton_linear
        from model.kernels.quantization import multiplies_fp8

        programs, finished = programs_of(self.device), triton_linear.counters(self.device)

        def of(tile: Tile) -> list[Way]:
            return [
                lambda x, d=d, s=s: triton_linear.multiply(x, d, s, None, programs, None, finished, tile)  # type: ignore[misc]
                for d, s in rounded
            ]

        ways = {name_of(tile): of(tile) for tile in CANDIDATES[row_class(rows)]}
        if kind == "fp8" and rows >= 32 and multiplies_fp8(self.device):
            ways["fp8 by fp8"] = [
                lambda x, d=d, s=s: triton_linear.multiply_fp8(x, d, s, None)  # type: ignore[misc]
                for d, s in rounded
            ]
        return ways

    def _add(
        self, kind: str, rows: int, name: str, layer: str, ways: Sequence[Way], x: torch.Tensor, exact: torch.Tensor
    ) -> None:
        """The time of one way, if it is right and there is time left."""
        key = f"{kind} {name}"
        if key in self.refused or time.monotonic() > self.until:
            self.refused.setdefault(key, f"no time was left for {layer}, {rows} rows")
            return
        try:
            first = ways[0](x)
            error = ((first.float() - exact).abs().max() / exact.abs().max()).item()
            if not error < (LIMIT_FP8_BY_FP8 if name == "fp8 by fp8" else LIMIT):
                raise ArithmeticError(f"{layer}, {rows} rows: off by {error:.2g} of the largest result")
            seconds = launched_seconds(ways, x)
            if not torch.equal(first, ways[0](x)):
                raise ArithmeticError(f"{layer}, {rows} rows: another run gives other results")
        except Exception as problem:
            self.refused[key] = _said(problem)
            return
        self.times.setdefault((kind, rows), {}).setdefault(name, {})[layer] = seconds


def compile_one(capability: int, kind: Quantization, tile: Tile, split: bool) -> str | None:
    """What went wrong, or None. For a process that has no GPU."""
    from model.kernels import ahead_of_time, triton_linear

    inputs = 2 * tile.depth
    data, scale = torch.zeros(16, inputs, dtype=FORMATS[kind][0]), torch.zeros(16)
    try:
        with ahead_of_time.pretend(capability):
            x = torch.zeros(1, inputs, dtype=torch.bfloat16)
            triton_linear.multiply(x, data, scale, None, programs=1, splits=1 + split, tile=tile)
    except Exception as problem:
        return _said(problem)
    return None


def _said(problem: Exception) -> str:
    """Compilers quote the source first and end with what is wrong."""
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[-200:]}"


def launched_seconds(ways: Sequence[Way], x: torch.Tensor) -> float:
    """Of one launch; all ways take turns, 16 launches at least, the best of three times two replays."""
    launches = [ways[i % len(ways)] for i in range(max(16, len(ways)))]
    if x.device.type != "cuda":
        return best_seconds(lambda: ways[0](x), x.device, tries=1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for way in launches:
            way(x)
    graph.replay()
    found = []
    for _ in range(3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3 / 2 / len(launches))
    return min(found)


def run(options: argparse.Namespace, layers: dict[str, tuple[int, int]]) -> Result:
    """A block's layers alone: the head is as large as the largest of them."""
    started = time.monotonic()
    # one of each size first, if time runs out
    layers = {name: layers[name] for name in ("c_attn", "c_fc", "attn.c_proj", "mlp.c_proj")}
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    sweep = Sweep(
        layers,
        options.quantization,
        [rows for rows in options.rows if rows <= max(CANDIDATES)],
        device,
        torch.bfloat16 if gpu else torch.float32,
        options.weights_mib << 20,
        started + options.seconds,
    )
    copy = copy_bandwidth(device, 1 << 30 if gpu else 1 << 26)
    if gpu:
        sweep.compile()
    compiled = time.monotonic()
    try:
        for layer in layers:
            sweep.time(layer)
    except RuntimeError as problem:  # after most errors of CUDA nothing else works; what was found before is kept
        sweep.refused[f"all that follows {layer}"] = _said(problem)
    metrics: dict[str, float] = {
        "copy_gbytes_per_s": copy / 1e9,
        "seconds_of_compiling": compiled - started,
        "seconds_of_timing": time.monotonic() - compiled,
    }
    metrics |= {
        f"{kind}/{rows}/{way}/{layer}_us": 1e6 * seconds
        for (kind, rows), ways in sweep.times.items()
        for way, by_layer in ways.items()
        for layer, seconds in by_layer.items()
    }
    settings = {
        "shape": options.shape,
        "device": options.device,
        "quantization": options.quantization,
        "tiles": True,
        "refused": sweep.refused,
    }
    return Result("linear", settings, metrics, tables=tables(sweep, copy), shows_metrics=False)


def tables(sweep: Sweep, copy: float) -> dict[str, list[Row]]:
    """One for each kind and rows, then the best of each for small and for large layers, with their times added."""
    layers = list(sweep.layers)
    sizes = {name: outputs * inputs for name, (outputs, inputs) in sweep.layers.items()}
    groups = {
        "small": [name for name in layers if sizes[name] < LARGE],
        "large": [name for name in layers if sizes[name] >= LARGE],
    }
    found: dict[str, list[Row]] = {}
    best: list[Row] = [("best", "us", "of plain", "% of copy", "way")]
    for (kind, rows), ways in sweep.times.items():
        if kind == "none":
            continue
        plain = sweep.times.get(("none", rows), {}).get("plain", {})
        found[f"{kind}, {rows} rows: microseconds"] = [
            ("way", *layers),
            *(
                (name, *(number(1e6 * t[n]) if n in t else "-" for n in layers))
                for name, t in {"plain": plain, **ways}.items()
            ),
        ]
        for group, members in groups.items():
            names = [name for name in members if name in plain]
            whole = {way: sum(t[n] for n in names) for way, t in ways.items() if names and t.keys() >= set(names)}
            if whole:
                way = min(whole, key=lambda w: whole[w])
                ratio = whole[way] / sum(plain[n] for n in names)
                share = 100 * sum(sizes[n] for n in names) / whole[way] / copy
                numbers = (number(1e6 * whole[way]), f"{ratio:.2f}", f"{share:.0f}")
                best.append((f"{kind}, {rows} rows, {group}", *numbers, way))
    if sweep.refused:
        found["refused"] = [("way", "why"), *sweep.refused.items()]
    return {**found, "best": best}
