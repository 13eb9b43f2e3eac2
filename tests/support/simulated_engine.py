"""An engine of a given speed, in virtual time: the real scheduler and cache, and steps that take a given time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from model.limits import StepLimits
from model.process.client import EngineDeadError, FailureKind
from model.request import Output, Request
from model.scheduling.block_tables import BlockTables
from model.scheduling.kv_cache import BlockPool
from model.scheduling.scheduler import Scheduler
from model.scheduling.sequence import Sequence
from model.statistics import EngineCounters, EngineStats, StepTiming
from monitoring import metrics

BLOCK = 16
WINDOW = 8192


@dataclass(frozen=True)
class Speed:
    """Seconds of a step, of each of its tokens, and of each token that one of them looks back at.

    As measured of a model of 164M on two cores: a step of one token takes 11 ms, of eight 15, of 512 some 330, and a
    prompt of 4,000 tokens twice as long a token.
    """

    step: float = 0.010
    token: float = 0.00062
    look_back: float = 3e-7


class SimulatedEngine:
    """Implements `deployments.replica.service.Client` on the running loop, whose time should be virtual.

    It says `token` until a request has what it wants. computed, drawn: tokens so far.
    """

    def __init__(self, speed: Speed, limits: StepLimits, *, token: int = 100, blocks: int = 20_000) -> None:
        self.stats = EngineStats()
        self.dead: EngineDeadError | None = None
        self.computed = self.drawn = 0
        self.counters = EngineCounters()
        self.scheduler = Scheduler(BlockPool(blocks, BLOCK), BlockTables(64, WINDOW // BLOCK), limits, self.counters)
        self.on_step: Callable[[StepTiming], None] = lambda _: None
        self._speed = speed
        self._token = token
        self._clock = asyncio.get_running_loop().time
        self.last_message_at = self._clock()
        self._arrivals = itertools.count()
        self._outputs: dict[Sequence, asyncio.Queue[Output]] = {}
        self._gone: list[Sequence] = []
        self._news = asyncio.Event()
        self._steps = asyncio.create_task(self._run())

    @property
    def open_requests(self) -> int:
        return len(self._outputs)

    @property
    def percent_cached(self) -> float:
        """Of the prompts' tokens, those that the cache had when a prompt ran first."""
        return 100 * self.counters[metrics.PREFIX_CACHE_HITS] / self.counters[metrics.PREFIX_CACHE_QUERIES]

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        length = len(request.prompt_ids)
        sequence = Sequence(request, 0, next(self._arrivals), min(length + request.params.max_tokens, WINDOW))
        outputs = self._outputs[sequence] = asyncio.Queue()
        self.scheduler.add(sequence)
        self._news.set()
        try:
            while True:
                output = await outputs.get()
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            if self._outputs.pop(sequence, None) is not None:
                self._gone.append(sequence)

    async def _run(self) -> None:
        while True:
            for sequence in self._gone:
                self.scheduler.remove(sequence)
            self._gone.clear()
            plan = self.scheduler.schedule()
            if not plan:
                self._news.clear()
                await self._news.wait()
                continue
            self.scheduler.started(plan)
            speed = self._speed
            seconds = speed.step
            for scheduled in plan:
                seconds += scheduled.count * (speed.token + speed.look_back * scheduled.sequence.computed)
            await asyncio.sleep(seconds)
            for scheduled in plan:
                self.computed += scheduled.count
                sequence = scheduled.sequence
                if sequence.pending or sequence not in self._outputs:
                    continue
                sequence.tokens.append(self._token)
                sequence.account.charge_output(1, sequence.request.weight)
                self.drawn += 1
                output = Output(sequence.request.request_id, [self._token], cached_tokens=sequence.cached_tokens)
                if len(sequence.tokens) >= sequence.limit:
                    output.finish_reason = "length"
                    self.scheduler.remove(sequence)
                    self._outputs.pop(sequence).put_nowait(output)
                else:
                    self._outputs[sequence].put_nowait(output)
            self.last_message_at = self._clock()
            tokens = sum(scheduled.count for scheduled in plan)
            self.on_step(StepTiming(len(plan), tokens, seconds, schedule=0.0, forward=seconds, sample=0.0))

    async def ping(self, timeout_s: float) -> EngineStats:
        return self.stats

    async def wait_dead(self) -> EngineDeadError:
        await asyncio.Event().wait()
        raise AssertionError

    def fail(self, reason: str, kind: FailureKind = "died") -> None:
        raise AssertionError(reason)

    async def shutdown(self) -> None:
        self._steps.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._steps
