"""An engine that answers from a table: steps, outputs and statistics as of a real one, and no forward pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from model.request import Output, Request, TokenLogprobs
from model.statistics import EngineCounters, EngineStats, GpuMemory, StepTiming
from monitoring import metrics

KV_BLOCKS = 65_536
BLOCK_SIZE = 16


@dataclass
class Running:
    """One sequence. at: how many tokens it has, those included that came with the request."""

    request: Request
    arrived: float
    started: float | None = None
    at: int = 0
    blocks: int = field(init=False)

    def __post_init__(self) -> None:
        self.at = len(self.request.output_ids)
        self.blocks = (len(self.request.prompt_ids) + self.request.params.max_tokens) // BLOCK_SIZE + 1


class NoRanks:
    def ping(self, timeout_s: float) -> list[GpuMemory]:
        return []


class TableEngine:
    """Implements `model.process.loop.Steps`: every step gives every running sequence its next token of the table.

    How long a step takes the requests say: microseconds in `seed`, which a table draws nothing with; none: no time at
    all. Of those that run the longest counts. So one server is measured at any pace, and what the pace is crosses all
    layers like any other field.
    """

    def __init__(
        self,
        table: list[int],
        eos: int,
        max_num_seqs: int,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.timing: StepTiming | None = None
        self.executor = NoRanks()
        self._table = table
        self._eos = eos
        self._most = max_num_seqs
        self._clock, self._sleep = clock, sleep
        self._sequences: dict[str, Running] = {}
        self._counters = EngineCounters()
        self._ended = 0.0

    def has_work(self) -> bool:
        return bool(self._sequences)

    def add(self, request: Request) -> None:
        self._sequences[request.request_id] = Running(request, self._clock())

    def abort(self, request_id: str) -> None:
        self._sequences.pop(request_id, None)

    def step(self) -> list[Output]:
        """Take as long as a step takes, then give everybody a token who was there when it began."""
        began = self._clock()
        running = list(self._sequences.values())[: self._most]
        pace = max((sequence.request.params.seed or 0) / 1e6 for sequence in running)
        # Steps that follow each other keep the pace, whatever sending their outputs takes; a late one begins anew.
        due = self._ended + pace if began - self._ended < pace else began + pace
        if due > began:
            self._sleep(due - began)
        self._ended = max(due, began)
        outputs = [self._next(sequence, began) for sequence in running]
        seconds = self._clock() - began
        self.timing = StepTiming(len(running), len(running), seconds, seconds * 0.02, seconds * 0.9, seconds * 0.05)
        self._counters.add(metrics.ENGINE_STEPS)
        self._counters.add(metrics.GENERATION_TOKENS, len(running))
        return outputs

    def _next(self, sequence: Running, began: float) -> Output:
        request = sequence.request
        params, id = request.params, self._table[sequence.at % len(self._table)]
        output = Output(request.request_id, [id])
        if sequence.started is None:
            sequence.started = began
            output.queue_seconds = began - sequence.arrived
            self._counters.add(metrics.PROMPT_TOKENS, len(request.prompt_ids))
            if params.prompt_logprobs is not None:
                output.prompt_logprobs = [None, *(TokenLogprobs(id, -1.0) for id in request.prompt_ids[1:])]
        if params.logprobs is not None:
            output.logprobs = [TokenLogprobs(id, -1.0)]
        sequence.at += 1
        if self._ends(id, sequence):
            output.finish_reason, output.stop_token_id = "stop", id
        elif sequence.at >= params.max_tokens:
            output.finish_reason = "length"
        if output.finish_reason is not None:
            del self._sequences[request.request_id]
        return output

    def _ends(self, id: int, sequence: Running) -> bool:
        params = sequence.request.params
        if sequence.at < params.min_tokens:
            return False
        return (id == self._eos and not params.ignore_eos) or id in params.stop_token_ids

    def stats(self) -> EngineStats:
        running = list(self._sequences.values())[: self._most]
        return EngineStats(
            running=len(running),
            waiting=len(self._sequences) - len(running),
            kv_blocks_total=KV_BLOCKS,
            kv_blocks_used=sum(sequence.blocks for sequence in running),
            totals=self._counters.totals(),
        )

    def check_integrity(self) -> None:
        """Nothing can leak."""
