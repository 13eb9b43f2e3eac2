"""What drafts gain by the share of them that is right, and cost where none is.

Random weights write nothing that repeats itself. So a text is given, as `benchmarks.engine.speculation` does it: every
step is run, checked and drawn from as always, then the text's token is taken. What is drafted is the text's next
tokens, each right with a given probability, and wrong behind one that is wrong; how long a draft is, and when there is
none, is the product's decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.engine.gpu.context import Context, Loaded
from benchmarks.engine.gpu.session import Found
from benchmarks.engine.in_process import drive
from benchmarks.engine.speculation import ReplayEngine
from benchmarks.report import Row, number
from model.limits import SPECULATIVE_TOKENS
from model.request import Request
from model.scheduling.speculation import Speculator
from monitoring.metrics import ACCEPTED_DRAFT_TOKENS, DRAFT_TOKENS, ENGINE_STEPS

LONGEST = SPECULATIVE_TOKENS
TOKENS = 48
"""Of each sequence at most: enough for drafts to grow where they are right, and to pause where they are not."""
BEYOND = 65
"""Tokens behind a text's end: they are looked at, and never kept."""


@dataclass(frozen=True)
class Way:
    """How drafts come about. right: probability that a guessed token is right; None: prompt lookup, in noise."""

    name: str
    drafts: bool = True
    right: float | None = None


WAYS = (
    Way("without", drafts=False),
    Way("looked up in noise"),
    Way("0 % right", right=0.0),
    Way("50 % right", right=0.5),
    Way("90 % right", right=0.9),
)


class Guesses:
    """In the place of prompt lookup. text: what the prompt of `before` tokens goes on with."""

    def __init__(self, before: int, text: Sequence[int], right: float, seed: int) -> None:
        self._before, self._text, self._right = before, text, right
        self._generator = np.random.default_rng(seed)

    def index(self, tokens: Sequence[int]) -> None:
        """Nothing is looked up."""

    def draft(self, tokens: Sequence[int], length: int) -> list[int]:
        """The next `length` tokens, right up to the first that is wrong."""
        first = len(tokens) - self._before
        wrong = np.maximum.accumulate(self._generator.random(length) >= self._right)
        following = self._text[first : first + length]
        # another token than the text's, and one of the vocabulary all the same
        return [max(token - 1, 0) if off else token for token, off in zip(following, wrong.tolist(), strict=True)]


class GuidedEngine(ReplayEngine):
    """Writes `texts`, by request, and drafts in the given way."""

    way = WAYS[0]

    def add(self, request: Request) -> None:
        super().add(request)
        sequence = self.sequences[request.request_id]
        if not self.way.drafts:
            sequence.speculator = None
        elif self.way.right is not None:
            sequence.speculator = Speculator(LONGEST)
            text = self.texts[request.request_id]
            guesses = Guesses(len(request.prompt_ids), text, self.way.right, sequence.arrival)
            sequence.speculator._lookup = guesses  # type: ignore[assignment]


def drafts(context: Context, batch: int) -> Found:
    """`batch` sequences that decode from the same prompts in every way, each from its first token on."""
    loaded, sizes = context.model(), context.sizes
    engine = _engine(loaded, batch)
    prompts = loaded.prompts(batch, sizes.before)
    new = min(TOKENS, sizes.steps)
    texts = loaded.prompts(batch, new + BEYOND, seed=1)
    engine.texts = {str(index): text for index, text in enumerate(texts)}
    drive(engine, prompts, [4] * batch)  # prompts are computed once
    metrics: dict[str, float] = {}
    rows: list[Row] = [("drafts", "tokens a second", "ms a step", "tokens a step", "percent accepted")]
    for way in WAYS:
        engine.way = way
        found = measured(engine, loaded, prompts, new).figures
        metrics |= {f"{way.name}, {key}": value for key, value in found.items()}
        rows.append((way.name, *(number(value) for value in found.values())))
    return Found(metrics, rows)


@dataclass(frozen=True)
class Measured:
    """figures: what decoding came to, by their names. steps: those that decoded. drafted: tokens of their drafts."""

    figures: dict[str, float]
    steps: float
    drafted: float


def measured(engine: ReplayEngine, loaded: Loaded, prompts: list[list[int]], new: int) -> Measured:
    """`new` tokens after each of the prompts, which the cache has already."""
    before = engine.stats()
    trace = drive(engine, prompts, [new] * len(prompts))
    after = engine.stats()
    steps, drafted, accepted = (after[c] - before[c] for c in (ENGINE_STEPS, DRAFT_TOKENS, ACCEPTED_DRAFT_TOKENS))
    steps -= 1  # all prompts, of which little is not in the cache
    work = loaded.accounts.decode(trace)
    figures = {
        "tokens_per_s": work.tokens_per_s,
        "ms_per_step": 1000 * work.seconds / steps,
        "tokens_per_step": work.tokens / steps,
        "percent_accepted": 100 * accepted / drafted if drafted else 0.0,
    }
    return Measured(figures, steps, drafted)


def _engine(loaded: Loaded, batch: int) -> GuidedEngine:
    """As `Loaded.engine` makes one: what a prompt's first run leaves in the cache is found by the others."""
    return GuidedEngine(
        loaded.engine().executor,
        max_num_seqs=batch,
        enable_prefix_caching=True,
        speculative_tokens=LONGEST,
        async_scheduling=True,
    )
