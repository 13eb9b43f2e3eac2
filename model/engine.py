"""The whole engine: add, abort, step."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import torch

from model.batch import Batch
from model.kv_cache import BlockPool
from model.request import EngineStats, FinishReason, Output, Request, TokenLogprobs
from model.runner import Executor
from model.sampler import Sampled, sample, token_logprobs
from model.scheduler import Scheduled, Scheduler, Sequence

DEFAULT_BATCHED_TOKENS = {"cpu": 512, "cuda": 2048}
"""Tokens in a step: small enough on CPU that a prefill chunk does not stall those who stream."""


class Engine:
    """Runs requests on one model, many at a time. Not thread-safe: one loop owns it.

    max_num_batched_tokens: None chooses by device.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int | None = None,
        enable_prefix_caching: bool = True,
        seed: int = 0,
    ) -> None:
        runner = executor.runner
        self.executor = executor
        self.model = runner.model
        self.max_model_len = runner.max_model_len
        self.pool = BlockPool(runner.num_kv_blocks, runner.block_size, caching=enable_prefix_caching)
        tokens = max_num_batched_tokens or DEFAULT_BATCHED_TOKENS[runner.device.type]
        self.scheduler = Scheduler(self.pool, max_num_seqs, max(tokens, max_num_seqs))
        self.sequences: dict[str, Sequence] = {}
        self._arrivals = itertools.count()
        self._seeds = random.Random(seed)
        self._refused: list[Output] = []
        self._steps = self._prompt_tokens = self._generated_tokens = 0

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
        )
        self.sequences[request.request_id] = sequence
        self.scheduler.add(sequence)

    def abort(self, request_id: str) -> None:
        """Forget a request, waiting or running, and free its blocks at once. Unknown ids are ignored."""
        sequence = self.sequences.pop(request_id, None)
        if sequence is not None:
            self.scheduler.remove(sequence)

    def has_work(self) -> bool:
        return bool(self.sequences or self._refused)

    def step(self) -> list[Output]:
        """Run one batch. Returns what each sequence gained."""
        outputs, self._refused = self._refused, []
        plan = self.scheduler.schedule()
        if not plan:
            return outputs
        prompt_rows = [self._prompt_rows(s) for s in plan]
        logits = self.executor.run(self._batch(plan, prompt_rows))
        self._steps += 1
        if logits is not None:
            self._note_prompt_logprobs(plan, prompt_rows, logits)
            logits = logits[sum(len(rows) for rows in prompt_rows) :]
        for scheduled in plan:
            self._prompt_tokens += max(
                0,
                min(scheduled.sequence.computed + scheduled.count, scheduled.sequence.prompt_length)
                - scheduled.sequence.computed,
            )
        finishing = [s.sequence for s in plan if s.completes]
        for scheduled in plan:
            scheduled.sequence.computed += scheduled.count
        if finishing:
            assert logits is not None
            sampled = sample(logits, finishing, self.model.eos_token_ids)
            outputs += [self._extend(s, sampled, row) for row, s in enumerate(finishing)]
        return outputs

    @staticmethod
    def _prompt_rows(scheduled: Scheduled) -> range:
        """Positions in this chunk that predict a prompt token whose log-probability is wanted."""
        sequence = scheduled.sequence
        if not sequence.wants_prompt_logprobs:
            return range(0)
        return range(sequence.computed, min(sequence.computed + scheduled.count, sequence.prompt_length - 1))

    def _batch(self, plan: list[Scheduled], prompt_rows: list[range]) -> Batch:
        size = self.pool.block_size
        counts = np.array([s.count for s in plan], dtype=np.int64)
        computed = np.array([s.sequence.computed for s in plan], dtype=np.int64)
        tables = np.zeros((len(plan), max(len(s.sequence.blocks) for s in plan)), dtype=np.int64)
        for row, s in enumerate(plan):
            tables[row, : len(s.sequence.blocks)] = s.sequence.blocks
        owner = np.repeat(np.arange(len(plan)), counts)
        starts = np.cumsum(counts) - counts
        positions = np.arange(counts.sum()) - np.repeat(starts - computed, counts)
        tokens: list[int] = []
        for s in plan:
            tokens += s.sequence.tokens[s.sequence.computed : s.sequence.computed + s.count]
        logit_rows = [
            int(start) + position - s.sequence.computed
            for start, s, rows in zip(starts, plan, prompt_rows, strict=True)
            for position in rows
        ]
        logit_rows += [int(start) + s.count - 1 for start, s in zip(starts, plan, strict=True) if s.completes]
        return Batch(
            tokens=np.array(tokens, dtype=np.int64),
            positions=positions,
            slots=tables[owner, positions // size] * size + positions % size,
            query_lens=counts,
            context_lens=computed + counts,
            block_tables=tables,
            logit_rows=np.array(logit_rows, dtype=np.int64),
            num_decodes=int((counts == 1).sum()),
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

    def _extend(self, sequence: Sequence, sampled: Sampled, row: int) -> Output:
        """Append the sampled token; when it ends the sequence, free everything it holds."""
        token, logprobs = sampled.tokens[row], sampled.logprobs[row]
        params = sequence.request.params
        first = sequence.num_output == 0
        sequence.tokens.append(token)
        self._generated_tokens += 1
        reason, stop = self._finish_reason(sequence, token)
        output = Output(
            sequence.request.request_id,
            token_ids=[token],
            logprobs=None if logprobs is None else [logprobs],
            finish_reason=reason,
            stop_token_id=stop,
        )
        if first:
            output.cached_tokens = sequence.cached_tokens
            output.queue_seconds = (sequence.started_at or time.monotonic()) - sequence.arrived_at
            if params.prompt_logprobs is not None:
                output.prompt_logprobs = sequence.prompt_logprobs or [None]
        if reason is not None:
            self.abort(sequence.request.request_id)
        return output

    def _finish_reason(self, sequence: Sequence, token: int) -> tuple[FinishReason | None, int | None]:
        params = sequence.request.params
        ends = token in params.stop_token_ids or (not params.ignore_eos and token in self.model.eos_token_ids)
        if ends and sequence.num_output > params.min_tokens:
            return "stop", token
        if sequence.num_output >= params.max_tokens or len(sequence.tokens) >= self.max_model_len:
            return "length", None
        return None, None

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            kv_blocks_total=self.pool.num_blocks,
            kv_blocks_used=self.pool.num_used,
            kv_blocks_cached=self.pool.num_cached,
            steps_total=self._steps,
            prompt_tokens_total=self._prompt_tokens,
            generation_tokens_total=self._generated_tokens,
            prefix_cache_queries_total=self.scheduler.prefix_queries,
            prefix_cache_hits_total=self.scheduler.prefix_hits,
            preemptions_total=self.scheduler.preemptions,
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
