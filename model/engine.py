"""The whole engine: add, abort, step."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model.batch import Batch
from model.executor import Executor, ForwardTimer
from model.request import FinishReason, Output, Request, TokenLogprobs
from model.sampler import Drawn, Sampled, draw, token_logprobs
from model.scheduling.costs import StepCosts
from model.scheduling.kv_cache import BlockPool
from model.scheduling.scheduler import Scheduled, Scheduler, Sequence
from model.scheduling.speculation import Speculator
from model.statistics import EngineCounters, EngineStats, StepTiming
from monitoring import metrics

DEFAULT_BATCHED_TOKENS = {"cpu": 512, "cuda": 2048}
"""Tokens in a step: small enough on CPU that a prefill chunk does not stall those who stream."""

DRAFTED_ROWS = {"cpu": 12, "cuda": 128}
"""Tokens of a decode step up to which one more is nearly free: reading the weights takes longer than using them.
Drafts fill a step up to here and no further: where many decode at once, they would slow down everybody."""


@dataclass(frozen=True)
class DraftRow:
    """A row for the sampler: a sequence as it will stand if its draft's first tokens turn out right."""

    sequence: Sequence
    draft: tuple[int, ...]

    @property
    def request(self) -> Request:
        return self.sequence.request

    @property
    def seed(self) -> int:
        return self.sequence.seed

    @property
    def output(self) -> list[int]:
        return [*self.sequence.output, *self.draft]

    @property
    def num_output(self) -> int:
        return self.sequence.num_output + len(self.draft)


@dataclass(frozen=True)
class StepInFlight:
    """A step that was started.

    finishing: the sequences that it draws a token for. stays: it is read after the next one was started.
    sequences, tokens: its size. scheduled: when its batch was ready, by the performance counter.
    """

    finishing: list[Scheduled]
    drawn: Drawn | None
    stays: bool
    sequences: int
    tokens: int
    scheduled: float
    timer: ForwardTimer


class Engine:
    """Runs requests on one model, many at a time. Not thread-safe: one loop owns it.

    max_num_batched_tokens: None chooses by device.
    async_scheduling: prepare and start a step while the one before runs. A step in which somebody speculates, has
        penalties or wants the prompt's log-probabilities is read before the next one is prepared, all the same.
    speculative_tokens: longest draft by prompt lookup; 0 switches speculation off.
    costs: counts what the steps read and compute, if given. timing: of the last `step`, None where it ran nothing.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int | None = None,
        enable_prefix_caching: bool = True,
        speculative_tokens: int = 0,
        async_scheduling: bool = False,
        seed: int = 0,
        costs: StepCosts | None = None,
    ) -> None:
        runner = executor.runner
        self.executor = executor
        self.model = runner.model
        self.max_model_len = runner.max_model_len
        self.pool = BlockPool(runner.num_kv_blocks, runner.block_size, caching=enable_prefix_caching)
        tokens = max_num_batched_tokens or DEFAULT_BATCHED_TOKENS[runner.device.type]
        self.counters = EngineCounters()
        self.scheduler = Scheduler(self.pool, max_num_seqs, max(tokens, max_num_seqs), self.counters)
        self.sequences: dict[str, Sequence] = {}
        self._arrivals = itertools.count()
        self._seeds = random.Random(seed)
        self._refused: list[Output] = []
        self._async = async_scheduling
        self._running: StepInFlight | None = None
        self._speculative_tokens = speculative_tokens
        self._drafted_rows = DRAFTED_ROWS[runner.device.type]
        self._costs = costs
        self.timing: StepTiming | None = None

    def add(self, request: Request) -> None:
        """Queue a request. One that can never run comes back from the next step with `finish_reason="abort"`."""
        if not 0 < len(request.prompt_ids) < self.max_model_len or request.request_id in self.sequences:
            self._refused.append(Output(request.request_id, finish_reason="abort"))
            return
        seed = request.params.seed
        sequence = Sequence(
            request,
            seed=(self._seeds.getrandbits(64) if seed is None else seed) & (2**64 - 1),
            arrival=next(self._arrivals),
            limit=min(len(request.prompt_ids) + request.params.max_tokens, self.max_model_len),
            speculator=Speculator(self._speculative_tokens) if self._speculative_tokens else None,
        )
        self.sequences[request.request_id] = sequence
        self.scheduler.add(sequence)

    def abort(self, request_id: str) -> None:
        """Forget a request, waiting or running, and free its blocks at once. Unknown ids are ignored."""
        sequence = self.sequences.pop(request_id, None)
        if sequence is not None:
            self.scheduler.remove(sequence)

    def has_work(self) -> bool:
        return bool(self.sequences or self._refused or self._running)

    def step(self) -> list[Output]:
        """Run one batch. Returns what each sequence gained.

        With async scheduling a batch is left running while the next is prepared and started behind it: what it drew
        comes back from the next call.
        """
        started = time.perf_counter()
        outputs, self._refused = self._refused, []
        self.timing = None
        before, self._running = self._running, None
        launched = self._launch()
        scheduled = time.perf_counter() - started if launched is None else launched.scheduled - started
        finished = None
        if before is not None:
            outputs += self._collect(before)
            finished = before
        if launched is not None and launched.stays:
            self._await(launched)
            self._running = launched
        elif launched is not None:
            outputs += self._collect(launched)
            finished = launched
        if finished is not None:
            self.timing = self._timing(finished, time.perf_counter() - started, scheduled)
        return outputs

    def _launch(self) -> StepInFlight | None:
        """Choose a batch and start it; None where there is nothing to run."""
        self._draft()
        plan = self.scheduler.schedule()
        if not plan:
            return None
        prompt_rows = [self._prompt_rows(s) for s in plan]
        finishing = [s for s in plan if s.completes]
        stays = self._async and not any(map(self._needs_tokens, plan))
        batch = self._batch(plan, prompt_rows, len(finishing) if stays else 0)
        scheduled = time.perf_counter()
        logits = self.executor.run(batch)
        drawn = None
        if logits is not None:
            self._note_prompt_logprobs(plan, prompt_rows, logits)
            drawn = self._draw(finishing, logits[sum(len(r) for r in prompt_rows) :])
            if drawn is not None and stays:
                self.executor.broadcast(drawn.tokens)
        self._advance(plan)
        self._count(batch)
        return StepInFlight(finishing, drawn, stays, len(plan), len(batch.tokens), scheduled, self.executor.timer)

    @staticmethod
    def _needs_tokens(scheduled: Scheduled) -> bool:
        """Whether the next step cannot be prepared before this one's tokens, or logits, have been read."""
        sequence = scheduled.sequence
        params = sequence.request.params
        return sequence.speculator is not None or params.penalises or sequence.wants_prompt_logprobs

    def _await(self, running: StepInFlight) -> None:
        """Let each sequence know in which row of what the step draws its next token is to come."""
        for row, scheduled in enumerate(running.finishing):
            if self._lives(scheduled.sequence):
                scheduled.sequence.awaited = row

    def _lives(self, sequence: Sequence) -> bool:
        """Neither finished nor aborted since it was scheduled."""
        return self.sequences.get(sequence.request.request_id) is sequence

    def _collect(self, running: StepInFlight) -> list[Output]:
        """Wait for a step, and append what it drew."""
        sampled = self._read(running)
        outputs, first = [], 0
        for scheduled in running.finishing:
            sequence = scheduled.sequence
            if sampled is not None and self._lives(sequence):
                sequence.awaited = None
                outputs.append(self._extend(scheduled, sampled, first))
            first += len(scheduled.draft) + 1
        return outputs

    def _draw(self, finishing: list[Scheduled], logits: torch.Tensor) -> Drawn | None:
        """Draw what follows the known tokens of these sequences, and each of their drafted ones."""
        rows = self._rows(finishing)
        return draw(logits, rows, self.model.eos_token_ids) if rows else None

    def _read(self, running: StepInFlight) -> Sampled | None:
        return running.drawn.read() if running.drawn is not None else None

    @staticmethod
    def _timing(running: StepInFlight, seconds: float, schedule: float) -> StepTiming:
        """Of the call that collected a step. What ran while the next was prepared has cost no time of its own."""
        forward = min(running.timer.seconds(), seconds - schedule)
        rest = seconds - schedule - forward
        return StepTiming(running.sequences, running.tokens, seconds, schedule, forward, rest)

    @staticmethod
    def _rows(finishing: list[Scheduled]) -> list[DraftRow]:
        """What each row of logits is drawn for: a sequence as it stands, then with its draft's first tokens."""
        return [DraftRow(s.sequence, s.draft[:i]) for s in finishing for i in range(len(s.draft) + 1)]

    def _count(self, batch: Batch) -> None:
        self.counters.add(metrics.ENGINE_STEPS)
        if self._costs is not None:
            self.counters.add(metrics.READ_BYTES, float(self._costs.read_bytes(batch)))
            self.counters.add(metrics.FLOPS, float(self._costs.flops(batch)))

    def _draft(self) -> None:
        """Propose tokens for the sequences that are decoding; never beyond where they have to end.

        Who drafts first changes from step to step, since there may not be room for all.
        """
        if not self._speculative_tokens:
            return
        decoding = [s for s in self.scheduler.running if s.pending == 1 and s.num_output]
        rows = self._drafted_rows - len(decoding)
        first = int(self.counters[metrics.ENGINE_STEPS]) % max(1, len(decoding))
        for sequence in [*decoding[first:], *decoding[:first]]:
            if rows <= 0:
                return
            if sequence.speculator is not None:
                room = sequence.limit - sequence.length - 1
                sequence.draft = sequence.speculator.draft(sequence.tokens)[: max(0, min(room, rows))]
                rows -= len(sequence.draft)

    @staticmethod
    def _advance(plan: list[Scheduled]) -> None:
        for scheduled in plan:
            scheduled.sequence.computed += scheduled.count

    @staticmethod
    def _prompt_rows(scheduled: Scheduled) -> range:
        """Positions in this chunk that predict a prompt token whose log-probability is wanted."""
        sequence = scheduled.sequence
        if not sequence.wants_prompt_logprobs:
            return range(0)
        return range(sequence.computed, min(sequence.computed + scheduled.count, sequence.prompt_length - 1))

    def _batch(self, plan: list[Scheduled], prompt_rows: list[range], broadcasts: int) -> Batch:
        size = self.pool.block_size
        counts = np.array([s.total for s in plan], dtype=np.int64)
        computed = np.array([s.sequence.computed for s in plan], dtype=np.int64)
        tables = np.zeros((len(plan), max(len(s.sequence.blocks) for s in plan)), dtype=np.int64)
        for row, s in enumerate(plan):
            tables[row, : len(s.sequence.blocks)] = s.sequence.blocks
        owner = np.repeat(np.arange(len(plan)), counts)
        starts = np.cumsum(counts) - counts
        positions = np.arange(counts.sum()) - np.repeat(starts - computed, counts)
        tokens: list[int] = []
        drawn_rows: npt.NDArray[np.int64] | None = None
        for s in plan:
            tokens += s.sequence.tokens[s.sequence.computed : s.sequence.computed + s.count]
            if s.completes and s.sequence.awaited is not None:
                if drawn_rows is None:
                    drawn_rows = np.full(counts.sum(), -1, dtype=np.int64)
                drawn_rows[len(tokens)] = s.sequence.awaited
                tokens.append(0)
            tokens += s.draft
        logit_rows = [
            int(start) + position - s.sequence.computed
            for start, s, rows in zip(starts, plan, prompt_rows, strict=True)
            for position in rows
        ]
        for start, s in zip(starts, plan, strict=True):
            if s.completes:
                logit_rows += range(int(start) + s.count - 1, int(start) + s.total)
        return Batch(
            tokens=np.array(tokens, dtype=np.int64),
            positions=positions,
            slots=tables[owner, positions // size] * size + positions % size,
            query_lens=counts,
            context_lens=computed + counts,
            block_tables=tables,
            logit_rows=np.array(logit_rows, dtype=np.int64),
            num_decodes=int((counts == 1).sum()),
            broadcasts=broadcasts,
            drawn_rows=drawn_rows,
        )

    @staticmethod
    def _note_prompt_logprobs(plan: list[Scheduled], prompt_rows: list[range], logits: torch.Tensor) -> None:
        first = 0
        for scheduled, rows in zip(plan, prompt_rows, strict=True):
            if not rows:
                continue
            sequence = scheduled.sequence
            targets = sequence.tokens[rows.start + 1 : rows.stop + 1]
            top = [sequence.request.params.prompt_logprobs or 0] * len(rows)
            found: list[TokenLogprobs] = token_logprobs(logits[first : first + len(rows)], targets, top)
            sequence.prompt_logprobs += found if sequence.prompt_logprobs else [None, *found]
            first += len(rows)

    def _extend(self, scheduled: Scheduled, sampled: Sampled, row: int) -> Output:
        """Append what was sampled, as far as the draft was right; a finished sequence frees everything it holds.

        Row i of the sequence's rows is valid when the draft's first i tokens are what was sampled before it.
        """
        sequence = scheduled.sequence
        params = sequence.request.params
        output = Output(sequence.request.request_id, logprobs=None if params.logprobs is None else [])
        if sequence.num_output == 0:
            self.counters.add(metrics.PROMPT_TOKENS, sequence.prompt_length)
            output.cached_tokens = sequence.cached_tokens
            output.queue_seconds = (sequence.started_at or time.monotonic()) - sequence.arrived_at
            if params.prompt_logprobs is not None:
                output.prompt_logprobs = sequence.prompt_logprobs or [None]
        for drafted in (*scheduled.draft, None):
            token, logprobs = sampled.tokens[row], sampled.logprobs[row]
            sequence.tokens.append(token)
            output.token_ids.append(token)
            if output.logprobs is not None and logprobs is not None:
                output.logprobs.append(logprobs)
            output.finish_reason, output.stop_token_id = self._finish_reason(sequence, token)
            if output.finish_reason is not None or token != drafted:
                break
            row += 1
        accepted = len(output.token_ids) - 1
        sequence.computed += accepted
        self.counters.add(metrics.GENERATION_TOKENS, len(output.token_ids))
        if sequence.speculator is not None and scheduled.draft:
            sequence.speculator.learn(len(scheduled.draft), accepted)
            self.counters.add(metrics.DRAFT_TOKENS, len(scheduled.draft))
            self.counters.add(metrics.ACCEPTED_DRAFT_TOKENS, accepted)
        if output.finish_reason is not None:
            self.abort(sequence.request.request_id)
        return output

    def _finish_reason(self, sequence: Sequence, token: int) -> tuple[FinishReason | None, int | None]:
        params = sequence.request.params
        ends = token in params.stop_token_ids or (not params.ignore_eos and token in self.model.eos_token_ids)
        if ends and sequence.num_output > params.min_tokens:
            return "stop", token
        if len(sequence.tokens) >= sequence.limit:
            return "length", None
        return None, None

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            kv_blocks_total=self.pool.num_blocks,
            kv_blocks_used=self.pool.num_used,
            kv_blocks_cached=self.pool.num_cached,
            oldest_waiting_seconds=self.scheduler.oldest_waiting(),
            totals=self.counters.totals(),
        )

    def check_integrity(self) -> None:
        """Raise AssertionError if a block or a sequence has leaked. Call it between steps."""
        self.scheduler.check_integrity()
        lanes = {id(s) for s in (*self.scheduler.waiting, *self.scheduler.running)}
        assert lanes == {id(s) for s in self.sequences.values()}, (
            "the engine and the scheduler know different sequences"
        )
        if not self.sequences:
            assert self.pool.num_used == 0, "blocks are held, but nothing runs"
