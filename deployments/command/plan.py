"""`starcoder plan`: whether a model fits GPUs of a size, how many tokens its cache holds, how many people it serves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import get_args

from deployments.command import plan_developers
from deployments.command.gpus import GPUS
from deployments.command.tables import table
from deployments.options import OptionParser, positive, share, size_given
from model.checkpoint.family import FAMILY, known_shape
from model.config import ConfigError, EngineConfig, ModelConfig, Quantization

BYTES_PER_VALUE = {"bfloat16": 2, "float16": 2, "float32": 4}
GIB = 1 << 30


def run(arguments: Sequence[str]) -> int:
    """Print the table; 0 where something fits, else 1. Raises ConfigError for a model or size that cannot work."""
    options = parser().parse_args(list(arguments))
    models = _models(options.model)
    if options.developers is not None:
        if options.draft_model is not None:
            raise ConfigError("--developers counts engines without a draft model")
        return plan_developers.report(options, models)
    draft = None if options.draft_model is None else _models([options.draft_model])[0][1]
    unfit: list[str] = []
    if draft is not None and not options.model:
        unfit = [name for name, model in models if not _drafts_for(model, draft, options)]
        models = [(name, model) for name, model in models if name not in unfit]
    if options.gpu is not None:
        options.gpu_memory = GPUS[options.gpu].memory
    rows = [row for name, model in models for row in _rows(name, model, draft, options)]
    print(table(HEADINGS, [row.cells() for row in rows], numbers=range(1, len(HEADINGS))))
    weights = "" if options.quantization == "none" else f", linear layers in {options.quantization}"
    print(
        f"\nOf {options.gpu_memory / GIB:.4g} GiB a GPU, {options.gpu_memory_utilization:.0%} is used "
        f"({options.dtype}{weights}); 1 GiB of it is set aside for CUDA and NCCL.\nKV tokens: the cache of one engine. "
        "Full windows: sequences of the longest length that it holds at once."
    )
    if (stripes := options.decode_context_parallel_size) > 1:
        print(f"Each token is kept by one of {stripes} GPUs: KV bytes a token are one GPU's share.")
    if draft is not None:
        print(f"The first GPU has {options.draft_model} and its cache as well: weights and KV bytes are that GPU's.")
    if unfit:
        print(f"It cannot draft for {', '.join(unfit)}: another vocabulary, or a longer window.")
    return 0 if any(row.plan.fits for row in rows) else 1


def _drafts_for(model: ModelConfig, draft: ModelConfig, options: argparse.Namespace) -> bool:
    try:
        config = EngineConfig(model="", draft_model=options.draft_model, max_model_len=options.max_model_len)
        config.check_draft(model, draft)
    except ConfigError:
        return False
    return True


class _Row:
    def __init__(
        self,
        name: str,
        model: ModelConfig,
        draft: ModelConfig | None,
        config: EngineConfig,
        gpu_memory: int,
        width: int,
    ) -> None:
        from model.checkpoint.memory import plan

        self.name = name
        self.plan = plan(model, config, gpu_memory, width, draft)
        self.kv_bytes = self.plan.block_bytes // config.block_size

    def cells(self) -> list[str]:
        plan = self.plan
        fits = plan.fits
        return [
            self.name,
            str(plan.size),
            f"{plan.parameters / GIB:.2f} GiB",
            f"{self.kv_bytes:,}",
            f"{max(plan.cache, 0) / GIB:.2f} GiB",
            f"{plan.cache_tokens:,}",
            f"{plan.longest_sequences:.1f}" if fits else "does not fit",
        ]


HEADINGS = ["model", "GPUs", "weights a GPU", "KV bytes a token", "cache a GPU", "KV tokens", "full windows"]


def _rows(name: str, model: ModelConfig, draft: ModelConfig | None, options: argparse.Namespace) -> Iterator[_Row]:
    stripes = options.decode_context_parallel_size
    possible = [s for s in (1, 2, 4, 8) if s in model.tensor_parallel_sizes() and s % stripes == 0]
    sizes = options.tensor_parallel_size or possible
    for size in sizes:
        config = EngineConfig(
            model=name,
            tensor_parallel_size=size,
            decode_context_parallel_size=stripes,
            max_model_len=options.max_model_len,
            gpu_memory_utilization=options.gpu_memory_utilization,
            quantization=options.quantization,
            draft_model=options.draft_model,
        )
        yield _Row(name, model, draft, config, options.gpu_memory, BYTES_PER_VALUE[options.dtype])


def _models(names: Sequence[str] | None) -> list[tuple[str, ModelConfig]]:
    if not names:
        return list(FAMILY.items())
    return [(name, known_shape(name) or _checkpoint(name)) for name in names]


def _checkpoint(name: str) -> ModelConfig:
    """The shape of a checkpoint that is here already: planning is no reason to download one."""
    from pathlib import Path

    from model.checkpoint.hub import EMBEDDED_MODELS, resolve_checkpoint

    if name not in EMBEDDED_MODELS and not Path(name).expanduser().is_dir():
        raise ConfigError(f"model {name!r} is neither a directory here nor one of {', '.join(FAMILY)}")
    return ModelConfig.from_checkpoint(resolve_checkpoint(name))


def parser() -> OptionParser:
    parser = OptionParser(
        "starcoder plan",
        "Compute whether a model fits GPUs of a size, and how many tokens its cache then holds. Nothing is downloaded.",
        epilog="Example: starcoder plan --model starcoder --gpu-memory 24GiB --tensor-parallel-size 4",
    )
    parser.add_argument(
        "--model", metavar="MODEL", action="append", help="name of the family, or a checkpoint directory; repeatable"
    )
    parser.add_argument(
        "--draft-model", metavar="MODEL", help="one that drafts for it: its weights and cache count, too"
    )
    gpu = parser.add_mutually_exclusive_group(required=True)
    gpu.add_argument("--gpu-memory", metavar="SIZE", type=size_given, help="of one GPU, as 24GiB or 80GB")
    gpu.add_argument("--gpu", choices=GPUS, help="one that is known, instead")
    parser.add_argument(
        "--tensor-parallel-size",
        metavar="N",
        type=positive,
        action="append",
        help="GPUs that share the model; repeatable (default: 1, 2, 4 and 8)",
    )
    parser.add_argument(
        "--decode-context-parallel-size",
        metavar="N",
        type=positive,
        default=1,
        help="of these, how many share one key/value cache instead of a copy each (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype", choices=BYTES_PER_VALUE, default="bfloat16", help="of weights and cache (default: %(default)s)"
    )
    parser.add_argument(
        "--quantization", choices=get_args(Quantization), default="none", help="of the weights (default: %(default)s)"
    )
    parser.add_argument(
        "--max-model-len", metavar="N", type=positive, help="longest prompt plus completion (default: the window)"
    )
    parser.add_argument(
        "--gpu-memory-utilization",
        metavar="X",
        type=share,
        default=EngineConfig.model_fields["gpu_memory_utilization"].default,
        help="share of it for weights and cache (default: %(default)s)",
    )
    plan_developers.add_arguments(parser)
    return parser
