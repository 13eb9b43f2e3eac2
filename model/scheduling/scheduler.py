"""Which sequences run in the next step: continuous batching with chunked prefill, priorities and preemption."""

from __future__ import annotations

import bisect
import time
from collections import Counter
from itertools import chain, islice

from model.limits import StepLimits
from model.scheduling.block_tables import BlockTables
from model.scheduling.fairness import FairQueue
from model.scheduling.kv_cache import Block, BlockPool, chain_hashes
from model.scheduling.pace import StepPace
from model.scheduling.planning import MOST_PASSES, Planned, Step
from model.scheduling.prompt_logprobs import PromptRows
from model.scheduling.sequence import Scheduled, Sequence
from model.statistics import EngineCounters
from monitoring import metrics

MOST_EVICTIONS = 3
"""How often a sequence may lose its blocks to another tenant's."""


class Scheduler:
    """Sequences wait, run, and leave. running: by rank. pace: None: each step is filled."""

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
        self.waiting = FairQueue()
        self.running: list[Sequence] = []
        self.counters = counters
        self.pace = pace
        self._planned = Planned()
        self.lacks_blocks = False

    def add(self, sequence: Sequence) -> None:
        self.waiting.enter(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, waiting or running, and free its blocks at once."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self.waiting.runs(sequence)
        self._release(sequence)

    def withdraw(self, sequence: Sequence) -> None:
        """Let nobody find what was computed for a sequence: it is noise."""
        for block in sequence.blocks:
            self.pool.withdraw(block)

    def oldest_waiting(self) -> dict[int, float]:
        """By class, seconds that the sequence has waited that has waited longest for its first step, if one waits."""
        now = time.monotonic()
        return {service_class: now - oldest.arrived_at for service_class, oldest in self.waiting.oldest().items()}

    def schedule(self) -> list[Scheduled]:
        """The next step's work, decodes first. Empty only when nothing waits or runs but for what it awaits.

        What is not empty has either `started`, or is to be taken back: `undo`.
        """
        self._planned = Planned()
        self._make_room_for_urgent()
        step = Step(self.limits)
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
        self.lacks_blocks = step.held_up is not None
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
            sequence = scheduled.sequence
            if sequence.computed < sequence.lost:
                again = min(scheduled.count, sequence.lost - sequence.computed)
                self.counters.add(metrics.RECOMPUTED_TOKENS, again)
            sequence.computed += scheduled.count

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
            self.waiting.add(sequence)
        for sequence in self._planned.first:
            sequence.started_at = None
        self.waiting.never_ran(self._planned.first)
        for account, counter in reversed(self._planned.charged):
            account.counter = counter
        self._planned = Planned()

    def _make_room_for_urgent(self) -> None:
        """A waiting sequence takes the place of the least important that it outranks, if that suffices."""
        if not (self.waiting and self.running):
            return
        first, last = self.waiting.first(), self.running[-1]
        if (first.service_class, first.request.priority) >= (last.service_class, last.request.priority):
            return
        urgent = self._next_waiting()
        if urgent is not None:
            for victim in self._victims_for(urgent):
                self._preempt(victim, urgent)

    def _next_waiting(self) -> Sequence | None:
        """The first that could run, were there room: one that waits for rows of logits holds up nobody behind it."""
        rows = PromptRows(self.limits.prompt_rows)
        for sequence in self.running:
            rows.take(sequence, rows.most(sequence, sequence.pending))
        waiting = self.waiting.in_order([], 1, self._looks)
        return next((s for s in waiting if rows.most(s, 1)), None)

    @property
    def _looks(self) -> int:
        """How many of those that wait are looked at in a step without being admitted."""
        return self.limits.sequences + MOST_PASSES

    def _victims_for(self, urgent: Sequence) -> list[Sequence]:
        """Of the running sequences that it outranks the last ones, as many as have to go until it fits.

        Nobody where it fits, or all do not do.
        """
        outranked = [s for s in self.running if urgent.outranks(s) and _may_lose_to(s, urgent)]
        outranked.sort(key=_importance, reverse=True)
        cached = self._cached(urgent)
        new, matched, free = self._first_blocks(urgent, cached), set(cached), self.pool.num_free
        to_hold, given_back = self.pool.free_among(cached), Counter[Block]()
        for count in range(len(outranked) + 1):
            others = len(self.running) - count
            if others < self.limits.sequences and new + to_hold + others <= free:
                return outranked[:count]
            if count == len(outranked):
                break
            for block in outranked[count].blocks:
                given_back[block] += 1
                if given_back[block] == self.pool.references(block):
                    free += 1
                    to_hold += block in matched
        return []

    def _prefill(self, step: Step, decoding: list[Sequence]) -> None:
        """Prompts in order of service, whether they run or wait; but a share of the step is for those that end with it.

        So a keystroke does not wait behind a long prompt. That gets the rest, and what nobody needs of the share.
        All of them get what does not make those who decode wait too long.
        """
        running = [s for s in self.running if s.pending > 1 and not s.ends]
        queue = self.waiting.in_order(running, self.limits.sequences - len(self.running), self._looks)
        kept = 0
        if self.pace is not None and (first := next(queue, None)) is not None:
            paced = self.pace.prompt_tokens(decoding, [first, *running])
            kept = max(0, step.tokens - paced) if paced is not None else 0
            queue = chain([first], queue)
        step.tokens -= kept
        share = min(self.limits.short_tokens, step.tokens // 2)
        unfinished: list[Sequence] = []
        for sequence in queue:
            left = step.tokens - share
            if left <= 0:
                unfinished.append(sequence)
                break
            rest = self._rest(sequence)
            if left < rest <= share or self._advance(step, sequence, left) < rest:
                unfinished.append(sequence)
        if step.tokens:
            unfinished += islice(queue, max(0, self.limits.sequences - len(unfinished)))
        for sequence in unfinished[: self.limits.sequences]:
            if sequence not in step.counts and self._rest(sequence) <= step.tokens:
                self._advance(step, sequence, step.tokens)
        for sequence in chain(unfinished, queue):
            if step.tokens == 0:
                break
            self._advance(step, sequence, step.tokens, preempting=False)
        if self.pace is not None:
            self.pace.limited = kept > 0 and step.tokens == 0
        self._move_up_overtaken(step, running)

    def _move_up_overtaken(self, step: Step, running: list[Sequence]) -> None:
        """Prompts of a worse class that have been held up by many of better ones."""
        admitted = self._planned.admitted
        served = {s.service_class for s in chain(running, admitted) if s in step.counts}
        behind = [s for s in running if s not in step.counts and s.blocks]
        for sequence in self.waiting.overtaken(behind, admitted, served):
            if sequence.blocks:
                self.running.remove(sequence)
            self.waiting.move_up(sequence)
            if sequence.blocks:
                bisect.insort(self.running, sequence, key=_rank)

    def _rest(self, sequence: Sequence) -> int:
        """Tokens of a sequence that are still to be computed, those left out that are cached for one that waits."""
        cached = 0 if sequence.blocks else len(self._cached(sequence)) * self.pool.block_size
        return sequence.pending if sequence.blocks else sequence.length - cached

    def _advance(self, step: Step, sequence: Sequence, tokens: int, preempting: bool = True) -> int:
        """Let a sequence compute up to so many tokens more in this step; how many it computes in all."""
        if sequence.blocks:
            self._grow(step, sequence, tokens, preempting)
        else:
            self._admit(step, sequence, tokens)
        return step.counts.get(sequence, 0)

    def _grow(self, step: Step, sequence: Sequence, tokens: int, preempting: bool = True) -> None:
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
            victim = max((s for s in self.running if _may_lose_to(s, sequence)), key=_importance)
            self._preempt(victim, sequence)
            step.take_back(victim)
            if victim is sequence:
                return
        sequence.blocks += self.pool.allocate(missing)
        step.give(sequence, count)

    def _admit(self, step: Step, sequence: Sequence, tokens: int) -> None:
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
        bisect.insort(self.running, sequence, key=_rank)
        self._planned.admitted.append(sequence)
        if sequence.started_at is None:
            sequence.started_at = time.monotonic()
            self.waiting.runs(sequence)
            self._planned.charged.append((sequence.account, sequence.account.counter))
            sequence.account.charge_prompt(sequence.pending, sequence.request.weight)
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
        sequence.hashes = chain_hashes(sequence.tokens, self.pool.block_size, sequence.hashes, sequence.root)
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
                sequence.hashes = chain_hashes(sequence.tokens[: last * size], size, sequence.hashes, sequence.root)
            for index in range(sequence.published, last):
                self.pool.publish(sequence.blocks[index], sequence.hashes[index])
                self._planned.published.append((sequence, index))
            sequence.published = last

    def _preempt(self, victim: Sequence, claimant: Sequence) -> None:
        """It gives its blocks back and waits again, in its old place.

        What is still cached when it runs again is not recomputed, and what is recomputed is not charged again.
        """
        victim.evicted += victim.account is not claimant.account
        victim.lost = max(victim.lost, victim.computed)
        self.running.remove(victim)
        self._release(victim)
        self.counters.add(metrics.PREEMPTIONS)
        self.waiting.add(victim)

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        self.tables.release(sequence)
        sequence.start_over()

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
        self.waiting.check_integrity()
        assert self.running == sorted(self.running, key=_rank), "out of order"
        for sequence in self.running:
            assert len(sequence.blocks) >= self._blocks_for(sequence.computed), "computed tokens without a block"
        self.pool.check_integrity(s.blocks for s in self.running)
        self.tables.check_integrity(self.running)


def _rank(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.rank


def _importance(sequence: Sequence) -> tuple[int, int, int, tuple[int, int, int]]:
    """Who has the largest is preempted first."""
    account = sequence.account
    return account.service_class, account.counter, account.number, sequence.rank


def _may_lose_to(sequence: Sequence, claimant: Sequence) -> bool:
    """Whether it may be preempted for the other one, or for itself."""
    return sequence.account is claimant.account or sequence.evicted < MOST_EVICTIONS
