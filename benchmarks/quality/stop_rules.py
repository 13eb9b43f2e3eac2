"""`python -m benchmarks stop-rules`: what each rule that ends completions of code saves, and what it does to them.

The model fills gaps in held-out files once, greedy and without rules, to `--max-tokens` at most. Each set of rules is
then applied to what it said: they look at the text alone, so that a run with them would have ended at the same token.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.code_gaps import KINDS, Gap, SourceText, draw_gaps
from benchmarks.quality.similarity import similarity
from benchmarks.report import Result, Row
from benchmarks.sources import source_files
from deployments.protocol import CompletionMode, GenerationRequest, Setting, StopRules
from deployments.replica.sequence import SequenceText
from deployments.stop_rules.ask import ask, settings
from deployments.stop_rules.languages import guess_language
from deployments.stop_rules.registry import stop_rules
from deployments.stop_rules.rule import StopRule
from model.checkpoint.hub import PICO, resolve_checkpoint
from model.config import EngineConfig
from model.engine import Engine
from model.process.rank import Rank
from model.request import Output, Request, SamplingParams, TokenLogprobs
from model.text.prompts import Infill, render
from model.text.tokenizer import Tokenizer
from model.text.truncation import Window

CORPUS = Path("build/pico/corpus.jsonl")
HELD_OUT = ("heldout_file", "heldout_package")
TRIED = tuple(rule for rule in stop_rules().values() if rule.watches)
SETS = {
    "off": None,
    **{rule.name: rule for rule in TRIED if rule.trial.alone},
    "auto": None,
    **{rule.trial.name: rule for rule in TRIED if not rule.trial.alone},
}
"""Name to the rule that is tried: alone, or beside what editors get by default (`auto`)."""
VALUES = {rule.field.name: rule.trial for rule in TRIED if rule.field is not None and rule.trial.setting is not True}
"""Field to how its rule is tried, where it is more than on or off: an option of the command says it."""


@dataclass(frozen=True)
class Answer:
    """What the model said, without rules. finished: it ended the text itself."""

    gap: Gap
    token_ids: list[int]
    logprobs: list[TokenLogprobs]
    finished: bool


@dataclass(frozen=True)
class Outcome:
    """One answer under one set of rules. tokens: generated until it ended; rule: what ended it, if a rule did."""

    text: str
    tokens: int
    rule: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", type=Path, help="files and folders of source code (default: the corpus)")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="its held-out files are used where it is there")
    parser.add_argument("--model", default=PICO, help="a checkpoint directory, a hub id, or an embedded model")
    parser.add_argument("--cases", type=int, default=150, help="gaps of each kind")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--fim-mode", choices=("psm", "spm"), default=None, help="default: what the checkpoint prefers")
    for name, trial in VALUES.items():
        option, kind = f"--{name.replace('_', '-')}", type(trial.setting)
        parser.add_argument(option, type=kind, default=trial.setting, help=f"of the set {trial.name!r}")
    parser.add_argument("--num-threads", type=int, default=1, help="on CPU; more pay for large models only")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> Result:
    sources, origin = held_out(options.paths, options.corpus)
    directory = resolve_checkpoint(options.model, None)
    tokenizer = Tokenizer.from_checkpoint(directory)
    options.fim_mode = options.fim_mode or tokenizer.fim_order.mode
    rank = Rank(EngineConfig(model=str(directory), num_threads=options.num_threads, max_num_seqs=32))
    rank.load()
    engine = rank.engine()
    started = time.monotonic()
    found: dict[str, dict[str, list[Outcome]]] = {}
    gaps: dict[str, list[Gap]] = {}
    for kind in KINDS:
        gaps[kind] = draw_gaps(sources, kind, options.cases, options.seed)
        answers = generate(engine, tokenizer, gaps[kind], options.max_tokens, options.fim_mode)
        found[kind] = {name: [apply(a, name, tokenizer, options) for a in answers] for name in SETS}
    settings = {
        **{name: getattr(options, name) for name in ("cases", "max_tokens", "fim_mode", *VALUES, "seed")},
        "model": Path(str(options.model)).name,
        "sources": origin,
        "files": len(sources),
    }
    result = Result("stop-rules", settings, {"seconds": time.monotonic() - started})
    for kind, outcomes in found.items():
        rows: list[Row] = [
            ("rules", "tokens", "saved %", "ended %", "exact %", "similarity %", "empty %", "exact % of rest")
        ]
        for name, under in outcomes.items():
            measured = measures(gaps[kind], under, outcomes["off"])
            result.metrics |= {f"{kind}/{name}/{key}": value for key, value in measured.items()}
            rows.append((name, f"{measured['tokens']:,}", *(f"{v:.1f}" for k, v in measured.items() if k != "tokens")))
        result.tables[f"{kind}: {len(gaps[kind])} gaps, at most {options.max_tokens} tokens"] = rows
    return _Tables(**vars(result))


class _Tables(Result):
    """The metrics have tables of their own."""

    def text(self) -> str:
        return Result(self.benchmark, self.settings, {}, tables=self.tables).text()


def held_out(paths: Sequence[Path], corpus: Path) -> tuple[list[SourceText], str]:
    """Files to cut gaps into, and where they come from: the paths, else the corpus, else Python's standard library."""
    if not paths and corpus.exists():
        sources = []
        with corpus.open(encoding="utf-8") as lines:
            for line in lines:
                document = json.loads(line)
                if document["split"] in HELD_OUT:
                    sources.append(SourceText(document["path"], document["text"]))
        return sources, "held-out files of pico's corpus"
    files = source_files(paths)
    texts = [SourceText(path.name, path.read_text(encoding="utf-8", errors="replace")) for path in files]
    origin = "files named on the command line" if paths else "Python's standard library, which a model may have seen"
    return [text for text in texts if "\n" in text.text], origin


def generate(engine: Engine, tokenizer: Tokenizer, gaps: list[Gap], max_tokens: int, mode: Any) -> list[Answer]:
    """Greedy answers. Raises RuntimeError where the model cannot fill gaps, or a prompt exceeds its window."""
    ids: dict[str, list[int]] = {}
    logprobs: dict[str, list[TokenLogprobs]] = {}
    finished: set[str] = set()
    barred = tuple(sorted(tokenizer.special_ids - {tokenizer.eos_id}))
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, logprobs=0)
    window = Window(engine.max_model_len - max_tokens, block_size=16)
    for number, gap in enumerate(gaps):
        prompt = render(tokenizer, gap.prefix, Infill(mode, gap.suffix), window)
        engine.add(Request(str(number), prompt, params, barred_ids=barred))
    while engine.has_work():
        for output in engine.step():
            if output.finish_reason == "abort":
                raise RuntimeError("the engine refused a prompt: it exceeds the window")
            ids.setdefault(output.request_id, []).extend(output.token_ids)
            logprobs.setdefault(output.request_id, []).extend(output.logprobs or [])
            if output.finish_reason == "stop":
                finished.add(output.request_id)
    return [Answer(gap, ids[str(n)], logprobs[str(n)], str(n) in finished) for n, gap in enumerate(gaps)]


def rules_of(name: str, gap: Gap, options: argparse.Namespace) -> StopRules | None:
    """The rules of a set; None: those of `off`."""
    if name == "off":
        return None
    rule = SETS[name]
    mode: CompletionMode = "auto" if rule is None else rule.trial.mode
    wanted: dict[str, Setting] = {} if rule is not None and rule.trial.alone else settings(mode, {})
    if rule is not None and not rule.of_mode:
        wanted[rule.name] = _setting(rule, options)
    return ask(
        mode,
        wanted,
        language=guess_language(None, gap.name, gap.prefix),
        prefixes=(gap.prefix,),
        suffixes=(gap.suffix,),
    )


def _setting(rule: StopRule, options: argparse.Namespace) -> Setting:
    if rule.field is None or rule.field.name not in VALUES:
        return rule.trial.setting
    setting: Setting = getattr(options, rule.field.name)
    return setting


def apply(answer: Answer, name: str, tokenizer: Tokenizer, options: argparse.Namespace) -> Outcome:
    """Feed the answer token by token, as a replica does, until it ends."""
    rules = rules_of(name, answer.gap, options)
    params = SamplingParams(max_tokens=options.max_tokens)
    request = GenerationRequest(request_id="", prompts=[[0]], params=params, rules=rules)
    sequence, text = SequenceText(0, request, tokenizer), ""
    for count, (token, logprob) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True), start=1):
        output = Output("", [token], logprobs=[logprob])
        if count == len(answer.token_ids) and answer.finished:
            output.finish_reason, output.stop_token_id = "stop", token
        elif count == len(answer.token_ids):
            output.finish_reason = "length"
        delta = sequence.feed(output)
        text += delta.text
        if sequence.finished:
            return Outcome(text, count, delta.ended_by)
    raise RuntimeError("an answer without an end")


def measures(gaps: list[Gap], under: list[Outcome], off: list[Outcome]) -> dict[str, Any]:
    """Percentages, but for `tokens`. ended: by a rule. exact: white space at both ends aside.

    exact_of_rest: of the completions that are not empty.
    """
    tokens, before = sum(o.tokens for o in under), sum(o.tokens for o in off)
    exact = [o.text.strip() == gap.missing.strip() for gap, o in zip(gaps, under, strict=True)]
    alike = [similarity(o.text.strip(), gap.missing.strip()) for gap, o in zip(gaps, under, strict=True)]
    filled = [right for right, o in zip(exact, under, strict=True) if o.text.strip()]
    return {
        "tokens": tokens,
        "saved": 100 * (1 - tokens / before),
        "ended": _percent([o.rule is not None for o in under]),
        "exact": _percent(exact),
        "similarity": _percent(alike),
        "empty": 100 * (1 - len(filled) / len(under)),
        "exact_of_rest": _percent(filled),
    }


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values) if values else 0.0
