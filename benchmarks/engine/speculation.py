"""`python -m benchmarks speculation`: what prompt lookup gains where code repeats itself, and costs where nothing does.

The text that is generated is real: held-out code that was taken out of its file, or a function as it reads after an
edit. The engine runs every step and samples as always, but then the token of that text is taken, so that a model with
random weights of any size "writes" real code: the cost of each step and the share of drafts that are right are real,
whatever the model would have said. Runs with and without speculation alternate.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine.in_process import Bench, add_engine_arguments
from benchmarks.quality.code_gaps import SourceText, draw_gaps
from benchmarks.quality.stop_rules import CORPUS, held_out
from benchmarks.report import Result, Row, number
from model.checkpoint.hub import PICO, resolve_checkpoint
from model.engine import Engine
from model.request import Request, SamplingParams
from model.sampler import Sampled
from model.step import StepInFlight, draft_rows
from model.text.prompts import Infill, render
from model.text.tokenizer import Tokenizer
from model.text.truncation import Window
from monitoring.metrics import ACCEPTED_DRAFT_TOKENS, DRAFT_TOKENS, ENGINE_STEPS

_NAME = re.compile(r"\b[a-z_][a-z0-9_]{3,}\b")
_FUNCTION = re.compile(r"^(?P<indent> *)def \w+.*?(?=^(?P=indent)\S|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Case:
    """A prompt, and the ids that follow it."""

    prompt: list[int]
    output: list[int]


@dataclass(frozen=True)
class Measured:
    """One run of one case's kind. accepted: drafted tokens that were right."""

    seconds: float
    tokens: int
    steps: int
    drafted: int
    accepted: int


class ReplayEngine(Engine):
    """Runs and samples as the engine does, then takes the tokens of a given text instead."""

    texts: dict[str, list[int]]

    def write(self, prompt: list[int], output: list[int]) -> float:
        """Writes one text. The seconds are those after its first token."""
        # what a draft reaches beyond the end is never kept, but it is looked at
        self.texts = {"text": [*output, *[0] * 65]}
        params = SamplingParams(max_tokens=len(output), temperature=0.0, ignore_eos=True)
        self.add(Request("text", prompt, params))
        while self.has_work() and not self.sequences["text"].num_output:
            self.step()
        started = time.perf_counter()
        while self.has_work():
            self.step()
        return time.perf_counter() - started

    def _read(self, step: StepInFlight) -> Sampled | None:
        sampled = super()._read(step)
        if sampled is None:
            return None
        # as many as are known: while this step is read, the next one may be under way
        tokens = [self.texts[row.request.request_id][len(row.output)] for row in draft_rows(step.finishing)]
        return dataclasses.replace(sampled, tokens=tokens)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="for its held-out files")
    parser.add_argument("--tokenizer", default=PICO, help="whose tokens the code is cut into")
    parser.add_argument("--cases", type=int, default=6, help="texts of each kind")
    parser.add_argument("--max-tokens", type=int, default=128, help="of one text")
    parser.add_argument("--speculative-tokens", type=int, default=8, help="longest draft")
    parser.add_argument("--rounds", type=int, default=3, help="times each text is written, with and without")
    add_engine_arguments(parser)


def infills(sources: Sequence[SourceText], tokenizer: Tokenizer, options: argparse.Namespace) -> list[Case]:
    """Blocks of code between what stands before and after them, as an editor asks for them."""
    cases = []
    for gap in draw_gaps(sources, "block", options.cases, options.seed):
        prompt = render(tokenizer, gap.prefix, Infill("spm", gap.suffix), Window(1500, block_size=16))
        cases.append(Case(prompt, tokenizer.encode(gap.missing)[: options.max_tokens]))
    return cases


def edits(sources: Sequence[SourceText], tokenizer: Tokenizer, options: argparse.Namespace) -> list[Case]:
    """A function is given, and written again with one of its names changed throughout."""
    generator = random.Random(f"edits {options.seed}")
    cases: list[Case] = []
    for source in generator.sample(list(sources), len(sources)):
        functions = [m.group() for m in _FUNCTION.finditer(source.text) if 8 <= m.group().count("\n") <= 40]
        if not functions:
            continue
        before = generator.choice(functions)
        names = sorted({n for n in _NAME.findall(before) if len(re.findall(rf"\b{n}\b", before)) > 2})
        if not names:
            continue
        after = re.sub(rf"\b{generator.choice(names)}\b", "renamed_value", before)
        prompt = tokenizer.encode(f"# before\n{before}\n# after\n")
        cases.append(Case(prompt[-1500:], tokenizer.encode(after)[: options.max_tokens]))
        if len(cases) == options.cases:
            return cases
    raise ValueError("the files have too few functions with a name to change")


def noise(sources: Sequence[SourceText], tokenizer: Tokenizer, options: argparse.Namespace) -> list[Case]:
    """Thirty tokens in random order: pairs are met again all the time, and what follows is another token."""
    generator = np.random.default_rng(options.seed)

    def draw(length: int) -> list[int]:
        return generator.integers(100, 130, length).tolist()

    return [Case(draw(500), draw(options.max_tokens)) for _ in range(options.cases)]


KINDS: dict[str, Callable[[Sequence[SourceText], Tokenizer, argparse.Namespace], list[Case]]] = {
    "edit": edits,
    "infill": infills,
    "noise": noise,
}


def decode(engine: ReplayEngine, cases: Sequence[Case]) -> Measured:
    """Writes each text, one after the other."""
    before = engine.stats()
    seconds = sum(engine.write(case.prompt, case.output) for case in cases)
    after = engine.stats()
    return Measured(
        seconds,
        sum(len(case.output) - 1 for case in cases),
        *(int(after[c] - before[c]) for c in (ENGINE_STEPS, DRAFT_TOKENS, ACCEPTED_DRAFT_TOKENS)),
    )


def run(options: argparse.Namespace) -> Result:
    sources, origin = held_out([], options.corpus)
    tokenizer = Tokenizer.from_checkpoint(resolve_checkpoint(options.tokenizer, None))
    with Bench(options) as bench:
        runner = bench.engine.executor
        engines = {
            name: ReplayEngine(runner, max_num_seqs=8, enable_prefix_caching=False, speculative_tokens=length)
            for name, length in (("without", 0), ("with", options.speculative_tokens))
        }
        settings: dict[str, Any] = {**bench.settings(), "sources": origin}
        settings["corpus"] = options.corpus.name
        result = Result("speculation", settings, {})
        rows: list[Row] = [("text", "without, tok/s", "with, tok/s", "ratio", "drafts right", "tokens a step")]
        for kind, make in KINDS.items():
            cases = make(sources, tokenizer, options)
            decode(engines["with"], cases[:1])
            runs: dict[str, list[Measured]] = {name: [] for name in engines}
            for turn in range(options.rounds):
                for name in sorted(engines, reverse=bool(turn % 2)):
                    runs[name].append(decode(engines[name], cases))
            rates = {n: statistics.median(m.tokens / m.seconds for m in found) for n, found in runs.items()}
            last = runs["with"][-1]
            measured = {
                "tokens": last.tokens,
                "without_tokens_per_s": rates["without"],
                "with_tokens_per_s": rates["with"],
                "ratio": rates["with"] / rates["without"],
                "drafts_right": last.accepted / last.drafted if last.drafted else 0.0,
                "tokens_per_step": last.tokens / max(1, last.steps - len(cases)),
            }
            result.metrics |= {f"{kind}/{key}": value for key, value in measured.items()}
            rows.append(
                (
                    kind,
                    number(measured["without_tokens_per_s"]),
                    number(measured["with_tokens_per_s"]),
                    f"{measured['ratio']:.2f} x",
                    f"{measured['drafts_right']:.0%} of {last.drafted}",
                    f"{measured['tokens_per_step']:.2f}",
                )
            )
        result.tables["one sequence at a time, medians"] = rows
    return result
