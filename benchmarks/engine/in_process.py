"""The engine driven in this process: no server, no Ray, no socket."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import get_args

import msgspec.structs
import numpy as np
import torch

from benchmarks.engine.limits import Limits, measure_limits
from benchmarks.metrics import Timeline
from benchmarks.shapes import SHAPES, write_config
from deployments.options import size_given
from model.config import EngineConfig, ModelConfig, Quantization
from model.engine import Engine
from model.process.rank import Rank
from model.request import Request, SamplingParams
from model.scheduling.costs import cache_read, head_flops, prefill_flops, token_flops


@dataclass(frozen=True)
class Step:
    """When a step ended, and over how many tokens each sequence that gained some then had looked back.

    gained: new tokens of each of those sequences. first: which of them got their first token.
    """

    at: float
    contexts: tuple[int, ...]
    gained: tuple[int, ...]
    first: tuple[bool, ...]


@dataclass
class Trace:
    """One run of the engine: from `started` until every request had ended."""

    started: float
    timelines: list[Timeline]
    steps: list[Step] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.steps[-1].at - self.started

    @property
    def prefill_end(self) -> float:
        """When the last request got its first token; what comes after is decode alone."""
        return max(t.pieces[0] for t in self.timelines)


def drive(
    engine: Engine, prompts: Sequence[Sequence[int]], output_lens: Sequence[int], sampling: SamplingParams | None = None
) -> Trace:
    """Run all prompts at once, each to its own number of tokens. sampling: how; None: greedy.

    Raises RuntimeError if one is refused.
    """
    how = sampling or SamplingParams(temperature=0.0)
    trace = Trace(time.perf_counter(), [])
    for index, (prompt, length) in enumerate(zip(prompts, output_lens, strict=True)):
        params = msgspec.structs.replace(how, max_tokens=length, ignore_eos=True)
        trace.timelines.append(Timeline(trace.started, prompt_tokens=len(prompt)))
        engine.add(Request(str(index), list(prompt), params))
    while engine.has_work():
        outputs = engine.step()
        now = time.perf_counter()
        contexts, gained, first = [], [], []
        for output in outputs:
            if output.failure is not None:
                raise RuntimeError(f"the engine gave up a request: {output.failure}")
            if output.finish_reason == "abort":
                raise RuntimeError("the engine refused a request: prompt and output exceed its window")
            timeline = trace.timelines[int(output.request_id)]
            first.append(not timeline.pieces)
            if not timeline.pieces:
                timeline.cached_tokens = output.cached_tokens
            timeline.output_tokens += len(output.token_ids)
            timeline.pieces += [now] * len(output.token_ids)
            contexts.append(timeline.prompt_tokens + timeline.output_tokens - 1)
            gained.append(len(output.token_ids))
        trace.steps.append(Step(now, tuple(contexts), tuple(gained), tuple(first)))
    return trace


@dataclass(frozen=True)
class Work:
    """What a phase had to do at the least. tokens: prompt tokens in prefill, generated ones in decode."""

    seconds: float
    tokens: int
    bytes_read: int
    flops: int

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_s(self) -> float:
        return self.bytes_read / self.seconds if self.seconds else 0.0

    @property
    def flops_per_s(self) -> float:
        return self.flops / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Accounts:
    """What runs of a model cost, by the formulas of `model.scheduling.costs`. weights_read: bytes of a step."""

    model: ModelConfig
    weights_read: int
    value_bytes: int

    def prefill(self, trace: Trace) -> Work:
        """From the start to the last first token; what others decoded meanwhile is counted into the FLOP."""
        steps = [s for s in trace.steps if s.at <= trace.prefill_end]
        computed = [t.prompt_tokens - (t.cached_tokens or 0) for t in trace.timelines]
        flops = sum(prefill_flops(self.model, t.prompt_tokens, t.cached_tokens or 0) for t in trace.timelines)
        flops += sum(self._decode_flops(s) for s in steps)
        read = len(steps) * self.weights_read
        return Work(trace.prefill_end - trace.started, sum(computed), read, flops)

    def decode(self, trace: Trace) -> Work:
        """From the last first token to the end: the weights once a step, the cache of every sequence that ran."""
        steps = [s for s in trace.steps if s.at > trace.prefill_end]
        read = sum(self.weights_read + cache_read(self.model, s.contexts, self.value_bytes) for s in steps)
        tokens = sum(sum(s.gained) for s in steps)
        return Work(
            trace.seconds - (trace.prefill_end - trace.started), tokens, read, sum(map(self._decode_flops, steps))
        )

    def whole(self, trace: Trace) -> Work:
        """Both phases; tokens are prompt tokens and generated ones together."""
        first, then = self.prefill(trace), self.decode(trace)
        generated = sum(t.output_tokens for t in trace.timelines)
        return Work(
            trace.seconds, first.tokens + generated, first.bytes_read + then.bytes_read, first.flops + then.flops
        )

    def _decode_flops(self, step: Step) -> int:
        """Every token but a sequence's first, which its prompt's last row gave."""
        return sum(
            (gained - first) * (token_flops(self.model, context) + head_flops(self.model))
            for context, gained, first in zip(step.contexts, step.gained, step.first, strict=True)
        )


def random_prompts(model: ModelConfig, lengths: Sequence[int], seed: Sequence[int]) -> list[list[int]]:
    """Random token ids, special tokens left out; another seed shares no prefix."""
    generator = np.random.default_rng(seed)
    low = min(100, model.vocab_size // 2)
    return [generator.integers(low, model.vocab_size, size=n).tolist() for n in lengths]


class Bench:
    """A loaded engine, and what its runs cost. Use it as a context."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        options = self._options
        directory = options.model
        if directory is None:
            temporary = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="starcoder-bench-")))
            directory = str(write_config(temporary, options.shape))
        self.config = EngineConfig(
            model=directory,
            load_format="random" if options.model is None else "auto",
            dtype=options.dtype,
            device=options.device,
            num_threads=options.num_threads,
            max_model_len=options.max_model_len,
            max_num_seqs=options.max_num_seqs,
            max_num_batched_tokens=options.max_num_batched_tokens,
            target_inter_token_latency_s=options.target_inter_token_latency_s,
            kv_cache_memory=options.kv_cache_memory,
            enable_prefix_caching=options.prefix_caching,
            speculative_tokens=0,  # noise repeats itself, and drafts of it are right far too often
            cpu_kernels=options.cpu_kernels,
            attention=options.attention,
            cuda_graphs=options.cuda_graphs,
            async_scheduling=options.async_scheduling,
            quantization=options.quantization,
            seed=options.seed,
        )
        rank = Rank(self.config)
        self.report = rank.load()
        self.engine = rank.engine()
        self.device = torch.device(str(self.report["device"]))
        self.dtype: torch.dtype = getattr(torch, str(self.report["dtype"]))
        self.accounts = Accounts(self.engine.model, rank.costs().weights_read, self.dtype.itemsize)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def model(self) -> ModelConfig:
        return self.engine.model

    def settings(self) -> dict[str, object]:
        """What the engine was run with; a shape's temporary directory is not told."""
        options = {k: v for k, v in vars(self._options).items() if k not in ("run", "output", "plot", "command")}
        options["model"] = None if self._options.model is None else Path(self._options.model).name
        return {**options, "device": str(self.report["device"]), "dtype": str(self.report["dtype"])}

    def prompts(self, lengths: Sequence[int], seed: int) -> list[list[int]]:
        """As `random_prompts` has them."""
        return random_prompts(self.model, lengths, (self._options.seed, seed))

    def limits(self) -> Limits | None:
        if not self._options.limits:
            return None
        size = self._options.copy_mib << 20
        return measure_limits(self.device, self.dtype, copy_bytes=size, matmul_size=self._options.matmul_size)


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    chosen = group.add_mutually_exclusive_group()
    chosen.add_argument("--shape", choices=sorted(SHAPES), default="164m", help="random weights of this size")
    chosen.add_argument("--model", help="a checkpoint directory or hub id instead")
    group.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument("--num-threads", type=int, help="on CPU (default: all cores)")
    group.add_argument("--cpu-kernels", choices=("auto", "native", "torch"), default="auto")
    group.add_argument("--attention", choices=("auto", "torch", "triton"), default="auto")
    group.add_argument("--cuda-graphs", action=argparse.BooleanOptionalAction, default=True)
    group.add_argument("--async-scheduling", action=argparse.BooleanOptionalAction, help="default: on a GPU")
    group.add_argument("--quantization", choices=get_args(Quantization), default="none")
    group.add_argument("--max-model-len", type=int)
    group.add_argument("--max-num-seqs", type=int, default=256)
    group.add_argument("--max-num-batched-tokens", type=int)
    group.add_argument("--target-inter-token-latency-s", type=float, metavar="S", help="default: by device; 0: none")
    group.add_argument("--kv-cache-memory", type=size_given, default=1 << 30, metavar="SIZE", help="on CPU (1GiB)")
    group.add_argument("--prefix-caching", action="store_true", help="off unless asked for: prompts share nothing")
    group.add_argument("--seed", type=int, default=0)
    limits = parser.add_argument_group("limits of the machine, measured after the runs")
    limits.add_argument("--limits", action=argparse.BooleanOptionalAction, default=True)
    limits.add_argument("--copy-mib", type=int, default=0, help="size of the copy (default: by device)")
    limits.add_argument("--matmul-size", type=int, default=0, help="rows of the product (default: by device)")


def share(achieved: float, limit: float) -> float:
    """Percent of a limit."""
    return 100 * achieved / limit
