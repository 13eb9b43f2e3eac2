"""From a step's plan to its arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.batch import Batch
from model.scheduling.block_tables import BlockTables
from model.scheduling.prompt_logprobs import predicting_positions
from model.scheduling.sequence import Scheduled

Ints = npt.NDArray[np.int64]


def build_batch(plan: list[Scheduled], tables: BlockTables, block_size: int, broadcasts: int = 0) -> Batch:
    """The batch of a plan that is not empty, its decodes first.

    Logit rows are those that predict wanted prompt tokens, then those to draw from: of each sequence whose end is
    reached, the row of its last token and of each drafted one.
    """
    counts = np.array([s.total for s in plan], dtype=np.int64)
    computed = np.array([s.sequence.computed for s in plan], dtype=np.int64)
    starts = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(len(plan)), counts)
    positions = np.arange(counts.sum()) - np.repeat(starts - computed, counts)
    block_tables = tables.of([s.sequence for s in plan])
    tokens, drawn_rows = _tokens(plan)
    return Batch(
        tokens=tokens,
        positions=positions,
        slots=block_tables[owner, positions // block_size] * block_size + positions % block_size,
        query_lens=counts,
        context_lens=computed + counts,
        block_tables=block_tables,
        logit_rows=_logit_rows(plan, starts),
        num_decodes=int((counts == 1).sum()),
        broadcasts=broadcasts,
        drawn_rows=drawn_rows,
    )


def _tokens(plan: list[Scheduled]) -> tuple[Ints, Ints | None]:
    """Ids [T], and rows among what the step before drew [T], where somebody awaits one."""
    tokens: list[int] = []
    awaited: dict[int, int] = {}
    for scheduled in plan:
        sequence = scheduled.sequence
        tokens += sequence.tokens[sequence.computed : sequence.computed + scheduled.count]
        if sequence.awaited is not None and scheduled.completes:
            awaited[len(tokens)] = sequence.awaited
            tokens.append(0)
        tokens += scheduled.draft
    ids = np.array(tokens, dtype=np.int64)
    if not awaited:
        return ids, None
    drawn_rows = np.full(len(ids), -1, dtype=np.int64)
    drawn_rows[list(awaited)] = list(awaited.values())
    return ids, drawn_rows


def _logit_rows(plan: list[Scheduled], starts: Ints) -> Ints:
    rows: list[int] = []
    drawn: list[int] = []
    for start, scheduled in zip(starts.tolist(), plan, strict=True):
        if scheduled.sequence.wants_prompt_logprobs:
            positions = predicting_positions(scheduled.sequence, scheduled.count)
            first = start - scheduled.sequence.computed
            rows += range(first + positions.start, first + positions.stop)
        if scheduled.completes:
            drawn.append(start + scheduled.count - 1)
            if scheduled.draft:
                drawn += range(start + scheduled.count, start + scheduled.total)
    return np.array(rows + drawn, dtype=np.int64)
