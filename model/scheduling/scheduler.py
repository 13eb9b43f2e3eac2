"""Which sequences run in the next step: continuous batching with chunked prefill, priorities and preemption."""

from __future__ import annotations

import bisect
import time
from dataclasses import dataclass, field

from model.limits import StepLimits
from model.scheduling.block_tables import BlockTables
from model.scheduling.kv_cache import Block, BlockPool, OutOfBlocks, chain_hashes
from model.scheduling.prompt_logprobs import PromptRows
from model.scheduling.sequence import Scheduled, Sequence
from model.statistics import EngineCounters
from monitoring import metrics


@dataclass
class _Planned:
    """What scheduling a step changed ahead of its running.

    admitted: who left the queue; first: those of them for the first time. published: blocks of sequences, by index.
    """

    admitted: list[Sequence] = field(default_factory=list)
    first: list[Sequence] = field(default_factory=list)
    published: list[tuple[Sequence, int]] = field(default_factory=list)


class Scheduler:
    """Sequences wait, run, and leave. Both lists are kept in order of service."""

    def __init__(
        self,
        pool: BlockPool,
        tables: BlockTables,
        limits: StepLimits,
        counters: EngineCounters,
    ) -> None:
        self.pool = pool
        self.tables = tables
        self.limits = limits
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.counters = counters
        self._planned = _Planned()

    def add(self, sequence: Sequence) -> None:
        bisect.insort(self.waiting, sequence, key=lambda s: s.rank)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, waiting or running, and free its blocks at once."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self._release(sequence)

    def oldest_waiting(self) -> float:
        """Seconds that the sequence has waited that has waited longest for its first step; 0 if none waits."""
        arrivals = [s.arrived_at for s in self.waiting if s.started_at is None]
        return time.monotonic() - min(arrivals) if arrivals else 0.0

    def schedule(self) -> list[Scheduled]:
        """The next step's work, decodes first. Empty only when nothing waits or runs but for a token it awaits.

        What is not empty has either `started`, or is to be taken back: `undo`.
        """
        self._planned = _Planned()
        self._make_room_for_urgent()
        rows = PromptRows(self.limits.prompt_rows)
        plan = self._continue_running(rows)
        self._publish(plan)
        plan += self._admit_waiting(self.limits.tokens - sum(s.count for s in plan), rows)
        plan = self._add_drafts(plan)
        plan.sort(key=lambda s: s.total > 1)
        return plan

    def started(self, plan: list[Scheduled]) -> None:
        """The step that was planned last is under way: its tokens count as computed."""
        if self.pool.caching:
            for sequence in self._planned.first:
                if not sequence.wants_prompt_logprobs:
                    self.counters.add(metrics.PREFIX_CACHE_QUERIES, sequence.prompt_length)
                    self.counters.add(metrics.PREFIX_CACHE_HITS, sequence.cached_tokens)
        for scheduled in plan:
            scheduled.sequence.computed += scheduled.count

    def undo(self) -> None:
        """Take back the step that was planned last, which did not run. Who was preempted for it stays so.

        Blocks that it was to fill cannot be found any more. Who was admitted waits again, since what it found in the
        cache may be such a block.
        """
        size = self.pool.block_size
        for sequence, index in self._planned.published:
            if (index + 1) * size > sequence.computed:
                self.pool.withdraw(sequence.blocks[index])
            sequence.published = min(sequence.published, sequence.computed // size)
        for sequence in self._planned.admitted:
            self.remove(sequence)
            self.add(sequence)
        for sequence in self._planned.first:
            sequence.started_at = None
        self._planned = _Planned()

    def _make_room_for_urgent(self) -> None:
        """A waiting sequence of better priority takes the place of the least important running one."""
        while self.waiting and self.running:
            urgent, victim = self._next_waiting(), self.running[-1]
            if urgent is None or urgent.request.priority >= victim.request.priority:
                return
            if len(self.running) < self.limits.sequences and self._first_chunk(urgent) is not None:
                return
            self._preempt_last()

    def _next_waiting(self) -> Sequence | None:
        """The first that could run, were there room: one that waits for rows of logits holds up nobody behind it."""
        rows = PromptRows(self.limits.prompt_rows)
        for sequence in self.running:
            rows.take(sequence, rows.most(sequence, sequence.pending))
        return next((s for s in self.waiting if rows.most(s, 1)), None)

    def _continue_running(self, rows: PromptRows) -> list[Scheduled]:
        """Decodes before prefill chunks, so that a long prompt does not hold up those who already stream."""
        budget = self.limits.tokens
        chosen: dict[Sequence, int] = {}
        taken: dict[Sequence, int] = {}
        preempted: set[Sequence] = set()
        order = sorted((s for s in self.running if not s.ends), key=lambda s: s.pending > 1)
        for sequence in order:
            if sequence in preempted:
                continue
            if budget == 0:
                break
            count = rows.most(sequence, min(sequence.pending, budget))
            if count == 0:
                continue
            missing = self._missing_blocks(sequence, sequence.computed + count)
            while missing > self.pool.num_free and sequence not in preempted:
                victim = self._preempt_last()
                preempted.add(victim)
                budget += chosen.pop(victim, 0)
                rows.left += taken.pop(victim, 0)
            if sequence not in preempted:
                sequence.blocks += self.pool.allocate(missing)
                chosen[sequence] = count
                budget -= count
                taken[sequence] = rows.take(sequence, count)
        return [Scheduled(sequence, count) for sequence, count in chosen.items()]

    def _admit_waiting(self, budget: int, rows: PromptRows) -> list[Scheduled]:
        """In order, but those for whom no row of logits is left wait without holding up others."""
        admitted: list[Scheduled] = []
        for sequence in self.waiting.copy():
            if budget == 0 or len(self.running) >= self.limits.sequences:
                break
            if not rows.most(sequence, 1):
                continue
            cached = self._first_chunk(sequence)
            if cached is None:
                break
            self.pool.hold(cached)
            sequence.blocks = cached
            sequence.published = len(cached)
            sequence.computed = len(cached) * self.pool.block_size
            count = rows.most(sequence, min(sequence.pending, budget))
            try:
                sequence.blocks += self.pool.allocate(self._missing_blocks(sequence, sequence.computed + count))
            except OutOfBlocks:
                self._release(sequence)
                break
            self.waiting.remove(sequence)
            bisect.insort(self.running, sequence, key=lambda s: s.rank)
            self._planned.admitted.append(sequence)
            if sequence.started_at is None:
                sequence.started_at = time.monotonic()
                sequence.cached_tokens = sequence.computed
                self._planned.first.append(sequence)
            admitted.append(Scheduled(sequence, count))
            self._publish(admitted[-1:])
            budget -= count
            rows.take(sequence, count)
        return admitted

    def _add_drafts(self, plan: list[Scheduled]) -> list[Scheduled]:
        """Drafts take only what is left over: tokens of the step, and blocks that are free."""
        budget = self.limits.tokens - sum(s.count for s in plan)
        drafted = []
        for scheduled in plan:
            sequence = scheduled.sequence
            draft, sequence.draft = sequence.draft, []
            if draft and scheduled.completes:
                end = sequence.computed + scheduled.count
                room = (len(sequence.blocks) + self.pool.num_free) * self.pool.block_size - end
                draft = draft[: min(budget, room)]
                sequence.blocks += self.pool.allocate(self._missing_blocks(sequence, end + len(draft)))
                budget -= len(draft)
                scheduled = Scheduled(sequence, scheduled.count, tuple(draft))
            drafted.append(scheduled)
        return drafted

    def _first_chunk(self, sequence: Sequence) -> list[Block] | None:
        """The cached blocks a waiting sequence can start from, or None if its first chunk does not fit now.

        The last token is always computed, since its logits are wanted. While others run, one block for each of them
        stays free, or admitting would only lead to preempting.
        """
        cached: list[Block] = []
        if self.pool.caching and not sequence.wants_prompt_logprobs:
            usable = (sequence.length - 1) // self.pool.block_size
            sequence.hashes = chain_hashes(sequence.tokens, self.pool.block_size, sequence.hashes)
            cached = self.pool.match(sequence.hashes[:usable])
        end = min(sequence.length, len(cached) * self.pool.block_size + self.limits.tokens)
        needed = self._blocks_for(end) - len(cached) + self.pool.free_among(cached)
        return cached if needed + len(self.running) <= self.pool.num_free else None

    def _publish(self, plan: list[Scheduled]) -> None:
        """Make the blocks that this step fills findable, for siblings in the same step and for later requests.

        Drafted tokens do not count: they are published with the step after the one that confirmed them. Neither does
        a token that is awaited.
        """
        if not self.pool.caching:
            return
        size = self.pool.block_size
        for scheduled in plan:
            sequence = scheduled.sequence
            last = min(sequence.computed + scheduled.count, len(sequence.tokens)) // size
            if last > len(sequence.hashes):
                sequence.hashes = chain_hashes(sequence.tokens[: last * size], size, sequence.hashes)
            for index in range(sequence.published, last):
                self.pool.publish(sequence.blocks[index], sequence.hashes[index])
                self._planned.published.append((sequence, index))
            sequence.published = max(sequence.published, last)

    def _preempt_last(self) -> Sequence:
        """The least important gives its blocks back and waits again, in its old place.

        What is still cached when it runs again is not recomputed.
        """
        victim = self.running.pop()
        self._release(victim)
        self.counters.add(metrics.PREEMPTIONS)
        self.add(victim)
        return victim

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        self.tables.release(sequence)
        sequence.blocks = []
        sequence.draft = []
        sequence.computed = sequence.published = 0
        sequence.prompt_logprobs = []

    def _missing_blocks(self, sequence: Sequence, length: int) -> int:
        """Blocks that a sequence still lacks for its first `length` tokens."""
        return max(0, self._blocks_for(length) - len(sequence.blocks))

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.pool.block_size)

    def check_integrity(self) -> None:
        """Raise AssertionError unless blocks, lists and counts agree. Call it between steps."""
        assert not {id(s) for s in self.waiting} & {id(s) for s in self.running}
        assert all(not s.blocks and s.computed == 0 for s in self.waiting), "a waiting sequence holds blocks"
        assert len(self.running) <= self.limits.sequences
        for lane in (self.waiting, self.running):
            assert [s.rank for s in lane] == sorted(s.rank for s in lane), "out of order"
        for sequence in self.running:
            assert len(sequence.blocks) >= self._blocks_for(sequence.computed), "computed tokens without a block"
        self.pool.check_integrity(s.blocks for s in self.running)
        self.tables.check_integrity(self.running)
