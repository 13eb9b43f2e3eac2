"""Drafts by a second, small model (Leviathan et al., arXiv:2211.17192; Chen et al., arXiv:2302.01318).

Its cache has the blocks of the model that is served, under the same numbers, and is filled lazily: what it lacks of a
sequence's tokens is computed in the step in which it is to draft for it, or, where that is much, in several before. Who
never drafts costs it nothing. Which tokens it holds is known by block (`BlockPool.drafted`), so that a prompt's prefix
is computed once for all who share it, and is still there after a preemption.

A drafted token is drawn as the model's own would be: by the same seed, position and parameters. So the two models draw
the same token wherever they see things alike, sampled or greedy.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from model.batch import Batch
from model.device import CopyToHost, is_out_of_memory, wait_for
from model.executor import Executor
from model.limits import DRAFT_PASS_TOKENS, DRAFTING_SEQUENCES, FREE_ROWS
from model.sampler import choose_next
from model.scheduling.costs import StepCosts
from model.scheduling.draft_length import CAUGHT_UP, DraftLength
from model.scheduling.scheduler import Scheduler
from model.scheduling.sequence import Scheduled, Sequence
from model.scheduling.speculation import BY_MODEL
from model.statistics import EngineCounters
from model.step import DraftPasses, DraftRow
from monitoring import metrics

logger = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]


class DraftNetwork(Protocol):
    """What is asked of a small model that is loaded: `model.shard.Shard` on a rank of its own."""

    def run(self, batch: Batch) -> torch.Tensor | None:
        """Logits [R, vocabulary] in float32, None where no row wants any; the next call may overwrite them."""
        ...

    def receive(self, count: int, tokens: torch.Tensor) -> None:
        """Keep `count` drawn tokens for the next batch."""
        ...


@dataclass(frozen=True)
class DraftModel:
    """cost: of its pass, as a share of a step of the model that is served, until it is measured.

    costs: counts what its passes read and compute, if given.
    """

    network: DraftNetwork
    cost: float
    costs: StepCosts | None = None


@dataclass(frozen=True)
class _Span:
    """Tokens start to stop of a sequence, which the first pass computes."""

    scheduled: Scheduled
    start: int
    stop: int

    @property
    def sequence(self) -> Sequence:
        return self.scheduled.sequence

    @property
    def drafts(self) -> int:
        """Tokens that it drafts once it has come to the sequence's end; 0 where it does not get there."""
        return len(self.scheduled.draft) if self.stop == len(self.sequence.tokens) else 0


class Drafter:
    """An engine's, on rank 0. length: how far it drafts. passes: of the last plan.

    runs_ahead: steps that nobody drafts for by a model are prepared while the one before runs.
    """

    def __init__(
        self,
        model: DraftModel,
        executor: Executor,
        scheduler: Scheduler,
        eos_token_ids: tuple[int, ...],
        longest: int,
        counters: EngineCounters,
        runs_ahead: bool,
    ) -> None:
        self._device = executor.runner.device
        self._most_tokens = DRAFT_PASS_TOKENS[self._device.type]
        free_tokens = FREE_ROWS[self._device.type]
        self.length = DraftLength(longest, model.cost, runs_ahead, self._most_tokens, free_tokens)
        self.passes = DraftPasses()
        self._model = model
        self._executor = executor
        self._scheduler, self._pool, self._tables = scheduler, scheduler.pool, scheduler.tables
        self._eos_token_ids = eos_token_ids
        self._counters = counters

    def look(self) -> None:
        """See what the cache holds of the sequences that run, before it is decided who drafts."""
        for sequence in self._scheduler.running:
            self._held(sequence)

    def fill(self, plan: list[Scheduled]) -> list[Scheduled]:
        """The plan, decodes first, with tokens in the place of `BY_MODEL`, or none for who has not got there yet.

        Where memory is too little for it there are no drafts, and none for some steps; every other failure is raised.
        """
        self.passes = DraftPasses()
        wanting = [s for s in plan if s.draft and s.draft[0] == BY_MODEL]
        if not wanting:
            return plan
        started = time.perf_counter()
        drafts = self._try(wanting)
        self.passes.seconds = time.perf_counter() - started
        self._counters.add(metrics.DRAFT_MODEL_TIME, self.passes.seconds)
        filled = [self._with(s, drafts) if s.draft and s.draft[0] == BY_MODEL else s for s in plan]
        filled.sort(key=lambda s: s.total > 1)
        return filled

    @staticmethod
    def _with(scheduled: Scheduled, drafts: dict[Sequence, tuple[int, ...]]) -> Scheduled:
        draft = drafts.get(scheduled.sequence, ())
        return Scheduled(scheduled.sequence, scheduled.count, draft, by_model=bool(draft))

    def checked(self, scheduled: Scheduled, accepted: int, ended: bool) -> None:
        """So many of a draft's tokens were right. ended: the sequence has, perhaps before them all."""
        if ended:
            return
        self.length.learn(len(scheduled.draft), accepted)
        sequence = scheduled.sequence
        if sequence.blocks:  # it was not preempted since
            # the last one was drawn, and is in no cache
            self._holds(sequence, sequence.drafted + min(accepted, len(scheduled.draft) - 1))

    def _try(self, wanting: list[Scheduled]) -> dict[Sequence, tuple[int, ...]]:
        try:
            drafts = self._draft(wanting)
            self.length.ran(bool(drafts))
            return drafts
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if self.length.rest():
                # its text alone, since it keeps the tensors of what failed
                logger.warning("no drafts for some time, for %d sequences' had no memory: %s", len(wanting), str(error))
        self._executor.free_memory()
        self.passes = DraftPasses(count=self.passes.count, failed=True)
        return {}

    def _draft(self, wanting: list[Scheduled]) -> dict[Sequence, tuple[int, ...]]:
        spans = self._spans(wanting)
        drawing = sorted((span for span in spans if span.drafts), key=lambda span: -span.drafts)
        sequences = [span.sequence for span in drawing]
        tables = self._tables.of([span.sequence for span in spans])
        logits = self._run(self._first_batch(spans, tables, drawing))
        for span in spans:
            self._holds(span.sequence, span.stop)
        if logits is None:
            wait_for(self._device)  # for its time; nothing else would wait for it before the step does
            return {}
        self.passes.drew = drawing[0].drafts
        tables = self._tables.of(sequences)
        reads = any(sequence.request.params.penalises for sequence in sequences)  # where a draw depends on those before
        known: list[tuple[int, ...]] = [()] * len(drawing)
        copies: list[CopyToHost] = []
        for number in range(drawing[0].drafts):
            count = sum(span.drafts > number for span in drawing)
            if number:
                logits = self._run(self._next_batch(drawing[:count], tables[:count], number))
            assert logits is not None
            rows = [DraftRow(s, known[i] or (0,) * number) for i, s in enumerate(sequences[:count])]
            tokens, _ = choose_next(logits, rows, self._eos_token_ids, self._executor.choose_tokens)
            self._model.network.receive(count, tokens)
            copies.append(CopyToHost(tokens))
            if reads:
                known = [(*before, token) for before, token in zip(known, copies[-1].wait()[0].tolist(), strict=False)]
        drawn = [copy.wait()[0].tolist() for copy in copies]
        return {s: tuple(drawn[n][i] for n in range(drawing[i].drafts)) for i, s in enumerate(sequences)}

    def _spans(self, wanting: list[Scheduled]) -> list[_Span]:
        """What the first pass computes, decodes first: who lacks least goes first, as far as there is room.

        Nobody computes a block that another one computes in the same pass: it is found in the next step.
        """
        spans: list[_Span] = []
        left = self._most_tokens
        taken: set[int] = set()
        size = self._pool.block_size
        for scheduled in sorted(wanting, key=lambda s: len(s.sequence.tokens) - self._held(s.sequence)):
            sequence = scheduled.sequence
            length = len(sequence.tokens)
            start = min(sequence.drafted, length - 1)  # the last token's logits are wanted
            stop = min(length, start + left)
            blocks = set(sequence.blocks[start // size : -(-stop // size)])
            if stop == start or len(spans) == DRAFTING_SEQUENCES or blocks & taken:
                continue
            taken |= blocks
            left -= stop - start
            spans.append(_Span(scheduled, start, stop))
        counts = [span.stop - span.start for span in spans]
        self.passes.caught_up = sum(count for count in counts if count > CAUGHT_UP)
        spans.sort(key=lambda span: (span.stop - span.start > 1, -span.drafts))
        return spans

    def _held(self, sequence: Sequence) -> int:
        """How many of its first tokens are in the cache: whole blocks may be there by others."""
        size, blocks = self._pool.block_size, sequence.blocks
        while (index := sequence.drafted // size) < len(blocks) and blocks[index] in self._pool.drafted:
            sequence.drafted = (index + 1) * size
        return sequence.drafted

    def _holds(self, sequence: Sequence, tokens: int) -> None:
        """So many of its first tokens are in the cache, all of which are known to be its own."""
        size = self._pool.block_size
        self._pool.drafted.update(sequence.blocks[sequence.drafted // size : tokens // size])
        sequence.drafted = max(sequence.drafted, tokens)

    def _run(self, batch: Batch) -> torch.Tensor | None:
        self.passes.count += 1
        if (costs := self._model.costs) is not None:
            self._counters.add(metrics.READ_BYTES, float(costs.read_bytes(batch)))
            self._counters.add(metrics.FLOPS, float(costs.flops(batch)))
        return self._model.network.run(batch)

    def _first_batch(self, spans: list[_Span], tables: Ints, drawing: list[_Span]) -> Batch:
        counts = np.array([span.stop - span.start for span in spans], dtype=np.int64)
        starts = np.array([span.start for span in spans], dtype=np.int64)
        ends = np.cumsum(counts)
        owner = np.repeat(np.arange(len(spans)), counts)
        positions = np.arange(counts.sum()) - np.repeat(ends - counts - starts, counts)
        last_row = {span.sequence: end - 1 for span, end in zip(spans, ends.tolist(), strict=True)}
        return Batch(
            tokens=np.array([t for span in spans for t in span.sequence.tokens[span.start : span.stop]], np.int64),
            positions=positions,
            slots=self._slots(tables, owner, positions),
            query_lens=counts,
            context_lens=starts + counts,
            block_tables=tables,
            logit_rows=np.array([last_row[span.sequence] for span in drawing], dtype=np.int64),
            num_decodes=int((counts == 1).sum()),
        )

    def _next_batch(self, drawing: list[_Span], tables: Ints, number: int) -> Batch:
        """The tokens that the pass before drew, which are the first `number` ones' last."""
        rows = np.arange(len(drawing))
        positions = np.array([span.stop + number - 1 for span in drawing], dtype=np.int64)
        return Batch(
            tokens=np.zeros_like(rows),
            positions=positions,
            slots=self._slots(tables, rows, positions),
            query_lens=np.ones_like(rows),
            context_lens=positions + 1,
            block_tables=tables,
            logit_rows=rows,
            num_decodes=len(rows),
            drawn_rows=rows,
        )

    def _slots(self, tables: Ints, owner: Ints, positions: Ints) -> Ints:
        size = self._pool.block_size
        return tables[owner, positions // size] * size + positions % size
