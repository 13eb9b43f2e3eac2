"""What is measured, in order: what matters most comes first, since time may end before the list does.

The seconds are what each took at most on an H100 with the 15.5B shape, rounded up.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from benchmarks.engine import linear, quantization, start
from benchmarks.engine.gpu import (
    checks,
    context,
    drafts,
    draws,
    fused_all_reduce,
    kernel_profile,
    pieces,
    reference,
    speeds,
    two_ranks,
)
from benchmarks.engine.gpu.context import Context
from benchmarks.engine.gpu.draft_model import draft_model
from benchmarks.engine.gpu.session import Found, Measurement, Skip
from model.config import Quantization
from model.request import SamplingParams

LOAD = "load"
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95)


def measurements(c: Context) -> list[Measurement]:
    """Everything; each knows what it needs."""
    return [
        *_checks(c),
        *_plain(c),
        *_pieces(c),
        *_profiles(c),
        *_beside_decodes(c),
        *_without(c),
        *_ranks(c),
        *_in_8_bits(c),
        *_alone(c),
        *_rest(c),
    ]


def _checks(c: Context) -> list[Measurement]:
    return [
        Measurement("limits", 2, partial(context.limits, c)),
        Measurement("attention against its definition", 8, partial(checks.attention, c)),
        Measurement("a recorded step against its definition", 12, partial(checks.recorded_step, c)),
        Measurement("draws against their definition", 6, partial(draws.draws, c)),
    ]


def _pieces(c: Context) -> list[Measurement]:
    return [
        Measurement("attention by the shape of its tiles", 16, partial(pieces.attention, c)),
        Measurement("between products", 3, partial(pieces.between_products, c)),
        Measurement("products of a few rows", 12, partial(pieces.few_rows, c)),
    ]


def _plain(c: Context) -> list[Measurement]:
    count, length, new = c.sizes.requests
    return [
        Measurement(LOAD, 10, partial(context.load, c, "none")),
        *(_loaded(decoding(c, batch), 2 + batch / 32, partial(speeds.decode, c, batch)) for batch in c.sizes.batches),
        _loaded(f"prefill of {c.sizes.prompt:,}", 3, partial(speeds.prefill, c)),
        _loaded(f"{count} requests of {length} in, {new} out", 12, partial(speeds.many_requests, c)),
        *(
            _loaded(f"{decoding(c, batch)}, top_p", 2 + batch / 32, partial(speeds.decode, c, batch, sampling=SAMPLED))
            for batch in c.sizes.batches[2:]
        ),
        Measurement("greedy texts against transformers", 16, partial(reference.agreement, c)),
    ]


def _beside_decodes(c: Context) -> list[Measurement]:
    """Steps that hold a chunk of a prompt, replayed and not."""
    chunks = (c.sizes.prompt // 32, c.sizes.prompt // 8)
    return [
        _loaded(
            f"a chunk of {chunk} beside {batch} decodes" + ("" if graphs else ", no CUDA graphs"),
            4,
            partial(speeds.beside_decodes, c, batch, chunk, graphs),
        )
        for batch in c.sizes.batches[:3:2]
        for chunk in chunks
        for graphs in (True, False)
    ]


def _without(c: Context) -> list[Measurement]:
    """The same steps without what makes them fast, one at a time, and with drafts."""
    ways: dict[str, dict[str, Any]] = {
        "no CUDA graphs": {"graphs": False},
        "no overlap": {"async_scheduling": False},
        "drafts": {"speculative_tokens": 8},
    }
    return [
        *(
            _loaded(f"{decoding(c, batch)}, {name}", 5, partial(speeds.decode, c, batch, **options))
            for name, options in ways.items()
            for batch in (c.sizes.batches[0], c.sizes.batches[2])
        ),
        *(
            _loaded(f"drafts by how many are right, batch {batch}", 3 + batch / 20, partial(drafts.drafts, c, batch))
            for batch in c.sizes.batches[:3]
        ),
        *(
            _loaded(
                f"a draft model of the shape {c.sizes.reference}, batch {batch}", 30, partial(draft_model, c, batch)
            )
            for batch in c.sizes.batches[:2]
        ),
    ]


def _profiles(c: Context) -> list[Measurement]:
    return [
        *(
            _loaded(f"kernels of a step, {decoding(c, batch)}", 8, partial(kernel_profile.of_decode, c, batch))
            for batch in (c.sizes.batches[0], *c.sizes.batches[2:])
        ),
        _loaded(f"kernels of a step, prefill of {c.sizes.prompt:,}", 5, partial(kernel_profile.of_prefill, c)),
    ]


def _ranks(c: Context) -> list[Measurement]:
    return [
        Measurement("two ranks on one device", 25, partial(two_ranks.two_ranks, c)),
        Measurement("two ranks that share a cache", 35, partial(two_ranks.two_ranks, c, stripes=2)),
        Measurement("fused all-reduce", 40, partial(fused_all_reduce.fused_all_reduce, c)),
        Measurement("fused all-reduce in an engine", 60, partial(two_ranks.two_ranks, c, way="fused")),
    ]


def _in_8_bits(c: Context) -> list[Measurement]:
    kinds: tuple[Quantization, ...] = ("int8", "fp8")
    found = []
    for kind in kinds:
        load = f"{LOAD}, {kind}"
        found += [
            Measurement(load, 12, partial(_load_in_8_bits, c, kind)),
            *(
                _loaded(f"{decoding(c, batch)}, {kind}", 5, partial(speeds.decode, c, batch, kind), load)
                for batch in (c.sizes.batches[0], c.sizes.batches[2])
            ),
            _loaded(f"prefill of {c.sizes.prompt:,}, {kind}", 3, partial(speeds.prefill, c, kind), load),
        ]
    return found


def _alone(c: Context) -> list[Measurement]:
    """Products without a model, and another engine's."""
    kinds = ("int8", "fp8") if c.device.type == "cuda" else ()
    rows = ("--rows", *map(str, c.sizes.products), "--weights-mib", str(c.sizes.products_mib))
    options = ("--shape", c.shape, "--device", c.device.type, *rows, "--quantization", *kinds)
    return [
        Measurement("single products", 8, partial(_command, c, linear, *options)),
        Measurement("transformers generate", 15, partial(reference.generate, c)),
    ]


def _rest(c: Context) -> list[Measurement]:
    device = ("--device", c.device.type)
    read = ("--quantization", *(("int8", "fp8") if c.device.type == "cuda" else ("int8",)))
    less = () if c.device.type == "cuda" else ("--tokens", "2000", "--num-threads", "1")
    return [
        Measurement("8 bits on real code, pico", 8, partial(_command, c, quantization, *device, *read, *less)),
        Measurement(
            f"start from files, {c.sizes.reference}",
            8,
            partial(_command, c, start, "--shape", c.sizes.reference, *device),
        ),
    ]


def decoding(c: Context, batch: int) -> str:
    return f"decode, batch {batch}, {c.sizes.before} before"


def _loaded(name: str, seconds: float, work: Callable[[], Found], load: str = LOAD) -> Measurement:
    return Measurement(name, seconds, work, needs=load)


def _load_in_8_bits(c: Context, kind: Quantization) -> Found:
    if kind == "fp8" and c.device.type != "cuda":
        raise Skip("fp8 needs a GPU")
    return context.load(c, kind)


def _command(c: Context, module: ModuleType, *arguments: str) -> Found:
    """What another command of this package measures, by its options. The loaded model is freed before."""
    c.release()
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    result = module.run(parser.parse_args(arguments))
    tables = list(result.tables.values())
    return Found(result.metrics, tables[0] if len(tables) == 1 else [])
