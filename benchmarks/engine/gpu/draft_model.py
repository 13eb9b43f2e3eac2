"""What a draft model's passes take beside the model, and what its drafts gain by the share of them that is right.

Both models are noise, so that neither says what the other one does. As in `drafts`, a text is given: the draft model's
passes are all run, then what it drafted is replaced by the text's next tokens, each right with a given probability, and
wrong behind one that is wrong. How long drafts are is the product's decision, but for the way that measures passes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine.gpu.context import Context, Loaded
from benchmarks.engine.gpu.drafts import BEYOND, TOKENS, Guesses, measured
from benchmarks.engine.gpu.session import Found
from benchmarks.engine.in_process import drive
from benchmarks.engine.speculation import ReplayEngine
from benchmarks.report import Row, number
from benchmarks.shapes import write_config
from model.checkpoint.draft import draft_config
from model.config import ModelConfig
from model.drafter import Drafter, DraftModel
from model.limits import SPECULATIVE_TOKENS
from model.network.parallel import TensorParallel
from model.request import Request
from model.scheduling.draft_length import Candidate, DraftLength
from model.scheduling.sequence import Scheduled
from model.shard import Shard

LONGEST = SPECULATIVE_TOKENS
FIXED = 4
"""Tokens of each draft where passes are measured."""


@dataclass(frozen=True)
class Way:
    """right: probability that a drafted token is right; None: nobody drafts. length: of all drafts; None: what pays."""

    name: str
    right: float | None = None
    length: int | None = None


WITHOUT = Way("without")
PASSES = Way(f"{FIXED} tokens, 0 % right", right=0.0, length=FIXED)
WAYS = (WITHOUT, PASSES, *(Way(f"{100 * right:.0f} % right", right) for right in (0.3, 0.5, 0.7, 0.9)))


class FixedLength(DraftLength):
    def share(self, candidates: Sequence[Candidate], sequences: int, room: int) -> list[int]:
        """Whatever it costs, as far as there is room for all."""
        each = min(FIXED, room // max(1, len(candidates)))
        return [max(0, min(each, candidate.most)) for candidate in candidates]


class NothingFound:
    """In the place of prompt lookup."""

    def index(self, tokens: Any) -> None:
        """Nothing is looked up."""

    def draft(self, tokens: Any, length: int) -> list[int]:
        return []


class GuidedDrafter(Drafter):
    """Runs every pass, and drafts what it is told. guesses: by request. ran, spent: passes and their seconds."""

    guesses: dict[str, Guesses]
    ran = 0
    spent = 0.0

    def fill(self, plan: list[Scheduled]) -> list[Scheduled]:
        filled = super().fill(plan)
        if self.passes.drew and not self.passes.caught_up:
            self.ran += self.passes.drew
            self.spent += self.passes.seconds
        return [self._guided(s) if s.by_model else s for s in filled]

    def _guided(self, scheduled: Scheduled) -> Scheduled:
        sequence = scheduled.sequence
        guesses = self.guesses[sequence.request.request_id]
        draft = guesses.draft(sequence.tokens, len(scheduled.draft))
        return Scheduled(sequence, scheduled.count, tuple(draft), by_model=True)


class GuidedEngine(ReplayEngine):
    """Writes `texts`, by request, and drafts in the given way."""

    def __init__(self, loaded: Loaded, draft: DraftModel, way: Way, batch: int, texts: dict[str, list[int]]) -> None:
        executor = loaded.engine().executor
        options: dict[str, Any] = {"max_num_seqs": batch, "enable_prefix_caching": True, "async_scheduling": True}
        drafts: dict[str, Any] = {} if way.right is None else {"speculative_tokens": LONGEST, "draft_model": draft}
        super().__init__(executor, **options, **drafts)
        self.texts = texts
        self._way = way
        if drafts:
            eos = self.model.eos_token_ids
            self.drafter = GuidedDrafter(draft, executor, self.scheduler, eos, LONGEST, self.counters, True)
            self.drafter.guesses = {}
            if way.length is not None:
                self.drafter.length = FixedLength(LONGEST, draft.cost)

    def add(self, request: Request) -> None:
        super().add(request)
        sequence = self.sequences[request.request_id]
        if sequence.speculator is not None and isinstance(self.drafter, GuidedDrafter):
            sequence.speculator._lookup = NothingFound()  # type: ignore[assignment]
            text, right = self.texts[request.request_id], self._way.right or 0.0
            guesses = Guesses(len(request.prompt_ids), text, right, sequence.arrival)
            self.drafter.guesses[request.request_id] = guesses


@contextlib.contextmanager
def small_model(context: Context, loaded: Loaded, shape: str) -> Iterator[DraftModel]:
    """Of noise, beside the loaded model. It is freed afterwards."""
    runner = loaded.engine().executor.runner
    with tempfile.TemporaryDirectory(prefix="starcoder-bench-") as directory:
        path = write_config(Path(directory), shape)
        config = draft_config(loaded.config.model_copy(update={"draft_model": str(path)}))
        shard = Shard(config, ModelConfig.from_checkpoint(path), path, TensorParallel(), context.device, lambda _: None)
    shard.allocate(runner.num_kv_blocks)
    try:
        yield DraftModel(shard, shard.backend.parameter_bytes / runner.backend.parameter_bytes)
    finally:
        del shard
        context.clean()


def draft_model(context: Context, batch: int) -> Found:
    """`batch` sequences that decode from the same prompts in every way, each from its first token on."""
    loaded, sizes = context.model(), context.sizes
    prompts = loaded.prompts(batch, sizes.before)
    new = min(TOKENS, sizes.steps)
    texts = {str(i): text for i, text in enumerate(loaded.prompts(batch, new + BEYOND, seed=1))}
    metrics: dict[str, float] = {}
    head: Row = ("drafts", "tokens a second", "ms a step", "tokens a step", "percent accepted", "tokens a draft")
    rows: list[Row] = [head]
    with small_model(context, loaded, sizes.reference) as draft:
        for way in WAYS:
            engine = GuidedEngine(loaded, draft, way, batch, texts)
            drive(engine, prompts, [new] * batch)  # both caches have the prompts then, and costs are known
            ran, spent = passes_of(engine)
            run = measured(engine, loaded, prompts, new)
            found = {**run.figures, "tokens_per_draft": run.drafted / run.steps / batch}
            metrics |= {f"{way.name}, {key}": value for key, value in found.items()}
            rows.append((way.name, *(number(value) for value in found.values())))
            if way is PASSES:
                ran_now, spent_now = passes_of(engine)
                each, passes = 1000 * (spent_now - spent) / (ran_now - ran), 1000 * (spent_now - spent) / run.steps
                checked_ms = metrics[f"{way.name}, ms_per_step"] - passes
                metrics["ms_per_pass"] = each
                metrics["break_even_percent"] = break_even(each, checked_ms, metrics[f"{WITHOUT.name}, ms_per_step"])
            del engine
    return Found(metrics, rows)


def passes_of(engine: GuidedEngine) -> tuple[int, float]:
    """That drew, so far, and their seconds."""
    return (engine.drafter.ran, engine.drafter.spent) if isinstance(engine.drafter, GuidedDrafter) else (0, 0.0)


def break_even(pass_ms: float, checked_ms: float, step_ms: float) -> float:
    """Percent right from which on a draft of one token pays, all sequences drafting.

    step_ms: a step without drafts, prepared ahead. checked_ms: one that checks drafts without their passes: it is not
    prepared ahead, and has more rows; those of `FIXED` tokens here, so that it is rather too high.
    """
    return 100 * ((checked_ms + pass_ms) / step_ms - 1)
