"""Which sequences run in the next step: continuous batching with chunked prefill, priorities and preemption."""

from __future__ import annotations

import bisect
import heapq
import time
from collections import Counter
from dataclasses import dataclass, field

from model.limits import StepLimits
from model.scheduling.block_tables import BlockTables
from model.scheduling.kv_cache import Block, BlockPool, chain_hashes
from model.scheduling.pace import StepPace
from model.scheduling.prompt_logprobs import PromptRows
from model.scheduling.sequence import Scheduled, Sequence
from model.statistics import EngineCounters
from monitoring import metrics

MOST_PASSES = 64
"""Sequences that may be admitted before one that does not fit and is no less important: enough that short ones do not
wait for it, few enough that it does not wait for ever."""


@dataclass
class _Planned:
    """What scheduling a step changed ahead of its running.

    admitted: who left the queue; first: those of them for the first time. published: blocks of sequences, by index.
    """

    admitted: list[Sequence] = field(default_factory=list)
    first: list[Sequence] = field(default_factory=list)
    published: list[tuple[Sequence, int]] = field(default_factory=list)


class _Step:
    """A step while it is planned. counts: tokens of each sequence; tokens: that are left to be given.

    held_up: the first that waits since it does not fit.
    """

    def __init__(self, limits: StepLimits) -> None:
        self.tokens = limits.tokens
        self.counts: dict[Sequence, int] = {}
        self.held_up: Sequence | None = None
        self._rows = PromptRows(limits.prompt_rows)
        self._rows_of: dict[Sequence, int] = {}

    def most(self, sequence: Sequence, count: int) -> int:
        """How many of the sequence's next `count` tokens may be computed, for all the rows of logits that are left."""
        if not sequence.wants_prompt_logprobs:
            return count
        return self._rows.most(sequence, count, self._rows_of.get(sequence, 0))

    def give(self, sequence: Sequence, count: int) -> None:
        """Let a sequence compute `count` tokens in all."""
        if sequence in self.counts:
            self.take_back(sequence)
        if not count:
            return
        self.counts[sequence] = count
        self.tokens -= count
        if sequence.wants_prompt_logprobs:
            self._rows_of[sequence] = self._rows.take(sequence, count)

    def give_one(self, sequence: Sequence) -> None:
        """Let a sequence that has nothing yet, and wants no rows of logits, compute one token."""
        self.counts[sequence] = 1
        self.tokens -= 1

    def take_back(self, sequence: Sequence) -> None:
        self.tokens += self.counts.pop(sequence, 0)
        self._rows.left += self._rows_of.pop(sequence, 0)

    def may_pass(self, sequence: Sequence) -> bool:
        """Whether a waiting sequence may be admitted before the one that is held up."""
        first = self.held_up
        return first is None or (sequence.request.priority <= first.request.priority and first.passed < MOST_PASSES)


class Scheduler:
    """Sequences wait, run, and leave. Both lists are kept in order of service. pace: None: each step is filled."""

    def __init__(
        self,
        pool: BlockPool,
        tables: BlockTables,
        limits: StepLimits,
        counters: EngineCounters,
        pace: StepPace | None = None,
    ) -> None:
        self.pool = pool
        self.tables = tables
        self.limits = limits
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.counters = counters
        self.pace = pace
        self._planned = _Planned()

    def add(self, sequence: Sequence) -> None:
        bisect.insort(self.waiting, sequence, key=lambda s: s.rank)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, waiting or running, and free its blocks at once."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self._release(sequence)

    def withdraw(self, sequence: Sequence) -> None:
        """Let nobody find what was computed for a sequence: it is noise."""
        for block in sequence.blocks:
            self.pool.withdraw(block)

    def oldest_waiting(self) -> float:
        """Seconds that the sequence has waited that has waited longest for its first step; 0 if none waits."""
        arrivals = [s.arrived_at for s in self.waiting if s.started_at is None]
        return time.monotonic() - min(arrivals) if arrivals else 0.0

    def schedule(self) -> list[Scheduled]:
        """The next step's work, decodes first. Empty only when nothing waits or runs but for what it awaits.

        What is not empty has either `started`, or is to be taken back: `undo`.
        """
        self._planned = _Planned()
        self._make_room_for_urgent()
        step = _Step(self.limits)
        size = self.pool.block_size
        decoding = [s for s in self.running if s.pending == 1 and not s.ends]
        for sequence in decoding:  # who streams is held up by no prompt
            if sequence.computed < len(sequence.blocks) * size and not sequence.wants_prompt_logprobs:
                step.give_one(sequence)  # as nearly always; the rest is for who needs a block
            else:
                self._grow(step, sequence, 1)
        if self.waiting or len(step.counts) < len(self.running):
            self._prefill(step, decoding)
        elif self.pace is not None:
            self.pace.limited = False
        plan = [Scheduled(sequence, count) for sequence, count in step.counts.items()]
        self._publish(plan)
        if any(sequence.draft for sequence in step.counts):
            plan = self._add_drafts(plan)
        plan.sort(key=lambda s: s.total > 1)
        return plan

    def started(self, plan: list[Scheduled]) -> None:
        """The step that was planned last is under way: its tokens count as computed."""
        if self.pool.caching:
            for sequence in self._planned.first:
                if not sequence.wants_prompt_logprobs:
                    queries, hits = sequence.cache_use
                    self.counters.add(metrics.PREFIX_CACHE_QUERIES, queries)
                    self.counters.add(metrics.PREFIX_CACHE_HITS, hits)
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
        """A waiting sequence of better priority takes the place of the least important that run, if that suffices."""
        if not (self.waiting and self.running):
            return
        last = self.running[-1].request.priority
        if self.waiting[0].request.priority >= last:
            return
        urgent = self._next_waiting()
        if urgent is not None and urgent.request.priority < last:
            for _ in range(self._victims_for(urgent) or 0):
                self._preempt_last()

    def _next_waiting(self) -> Sequence | None:
        """The first that could run, were there room: one that waits for rows of logits holds up nobody behind it."""
        rows = PromptRows(self.limits.prompt_rows)
        for sequence in self.running:
            rows.take(sequence, rows.most(sequence, sequence.pending))
        return next((s for s in self.waiting if not s.in_check and rows.most(s, 1)), None)

    def _victims_for(self, urgent: Sequence) -> int | None:
        """How many of the last running sequences, all less important, have to go until it fits; None: all do not do."""
        cached = self._cached(urgent)
        new, matched, free = self._first_blocks(urgent, cached), set(cached), self.pool.num_free
        to_hold, given_back = self.pool.free_among(cached), Counter[Block]()
        for others in range(len(self.running), -1, -1):
            if others < self.limits.sequences and new + to_hold + others <= free:
                return len(self.running) - others
            if not others or self.running[others - 1].request.priority <= urgent.request.priority:
                break
            for block in self.running[others - 1].blocks:
                given_back[block] += 1
                if given_back[block] == self.pool.references(block):
                    free += 1
                    to_hold += block in matched
        return None

    def _prefill(self, step: _Step, decoding: list[Sequence]) -> None:
        """Prompts in order of service, whether they run or wait; but a share of the step is for those that end with it.

        So a keystroke does not wait behind a long prompt. That gets the rest, and what nobody needs of the share.
        All of them get what does not make those who decode wait too long.
        """
        running = [s for s in self.running if s.pending > 1 and not s.ends]
        waiting = [s for s in self.waiting if not s.in_check] if len(self.running) < self.limits.sequences else []
        queue = list(heapq.merge(running, waiting, key=lambda s: s.rank))
        paced = self.pace.prompt_tokens(decoding, queue) if self.pace is not None else None
        kept = max(0, step.tokens - paced) if paced is not None else 0
        step.tokens -= kept
        share = min(self.limits.short_tokens, step.tokens // 2)
        unfinished: list[Sequence] = []
        for place, sequence in enumerate(queue):
            left = step.tokens - share
            if left <= 0:
                unfinished += queue[place:]
                break
            rest = self._rest(sequence)
            if left < rest <= share or self._advance(step, sequence, left) < rest:
                unfinished.append(sequence)
        for sequence in unfinished[: self.limits.sequences]:
            if sequence not in step.counts and self._rest(sequence) <= step.tokens:
                self._advance(step, sequence, step.tokens)
        for sequence in unfinished:
            if step.tokens == 0:
                break
            self._advance(step, sequence, step.tokens, preempting=False)
        if self.pace is not None:
            self.pace.limited = kept > 0 and step.tokens == 0

    def _rest(self, sequence: Sequence) -> int:
        """Tokens of a sequence that are still to be computed, those left out that are cached for one that waits."""
        if sequence.blocks:
            return sequence.pending
        return sequence.length - len(self._cached(sequence)) * self.pool.block_size

    def _advance(self, step: _Step, sequence: Sequence, tokens: int, preempting: bool = True) -> int:
        """Let a sequence compute up to so many tokens more in this step; how many it computes in all."""
        if sequence.blocks:
            self._grow(step, sequence, tokens, preempting)
        else:
            self._admit(step, sequence, tokens)
        return step.counts.get(sequence, 0)

    def _grow(self, step: _Step, sequence: Sequence, tokens: int, preempting: bool = True) -> None:
        """For one that runs. Where blocks are missing the least important gives up its own, itself perhaps."""
        if not sequence.blocks:
            return  # it was preempted since
        count = step.most(sequence, min(sequence.pending, step.counts.get(sequence, 0) + tokens))
        if count == step.counts.get(sequence):
            return
        if not preempting:
            room = (len(sequence.blocks) + self.pool.num_free) * self.pool.block_size
            count = min(count, room - sequence.computed)
        missing = self._missing_blocks(sequence, sequence.computed + count)
        while missing > self.pool.num_free:
            victim = self._preempt_last()
            step.take_back(victim)
            if victim is sequence:
                return
        sequence.blocks += self.pool.allocate(missing)
        step.give(sequence, count)

    def _admit(self, step: _Step, sequence: Sequence, tokens: int) -> None:
        """For one that waits, if its first chunk fits. One that does not fit is passed by few, none less important."""
        if len(self.running) >= self.limits.sequences or not step.most(sequence, 1) or not step.may_pass(sequence):
            return
        cached = self._first_chunk(sequence)
        if cached is None:
            step.held_up = step.held_up or sequence
            return
        self.pool.hold(cached)
        sequence.blocks = cached
        sequence.published = len(cached)
        sequence.computed = len(cached) * self.pool.block_size
        count = step.most(sequence, min(sequence.pending, tokens))
        sequence.blocks += self.pool.allocate(self._missing_blocks(sequence, sequence.computed + count))
        self.waiting.remove(sequence)
        bisect.insort(self.running, sequence, key=lambda s: s.rank)
        self._planned.admitted.append(sequence)
        if sequence.started_at is None:
            sequence.started_at = time.monotonic()
            found = min(sequence.computed, sequence.prompt_length)
            sequence.cached_tokens = max(found - sequence.request.ahead, 0)
            self._planned.first.append(sequence)
        if step.held_up is not None:
            step.held_up.passed += 1
        step.give(sequence, count)
        self._publish([Scheduled(sequence, count)])

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

    def _cached(self, sequence: Sequence) -> list[Block]:
        """The cached blocks that a waiting sequence can start from; its last token is computed, to have its logits."""
        if not self.pool.caching or sequence.wants_prompt_logprobs:
            return []
        usable = (sequence.length - 1) // self.pool.block_size
        sequence.hashes = chain_hashes(sequence.tokens, self.pool.block_size, sequence.hashes)
        return self.pool.match(sequence.hashes[:usable])

    def _first_blocks(self, sequence: Sequence, cached: list[Block]) -> int:
        """Blocks that the longest first chunk of a waiting sequence needs beside the cached ones."""
        end = min(sequence.length, len(cached) * self.pool.block_size + self.limits.tokens)
        return self._blocks_for(end) - len(cached)

    def _first_chunk(self, sequence: Sequence) -> list[Block] | None:
        """The cached blocks a waiting sequence can start from, or None if its first chunk does not fit now.

        While others run, one block for each of them stays free, or admitting would only lead to preempting.
        """
        cached = self._cached(sequence)
        needed = self._first_blocks(sequence, cached) + self.pool.free_among(cached)
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
            if last <= sequence.published:
                continue
            if last > len(sequence.hashes):
                sequence.hashes = chain_hashes(sequence.tokens[: last * size], size, sequence.hashes)
            for index in range(sequence.published, last):
                self.pool.publish(sequence.blocks[index], sequence.hashes[index])
                self._planned.published.append((sequence, index))
            sequence.published = last

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
