"""The engine's own scheduler over steps that take a given time, and what each tenant got."""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.scaling.engines import EngineModel
from model.limits import StepLimits
from model.request import Request, SamplingParams
from model.scheduling.account import OUTPUT_TOKEN, PROMPT_TOKEN
from model.scheduling.block_tables import BlockTables
from model.scheduling.kv_cache import BlockPool
from model.scheduling.scheduler import Scheduler
from model.scheduling.sequence import Scheduled, Sequence
from model.statistics import EngineCounters

BLOCK = 16


class Ask(NamedTuple):
    """at: seconds. prompt, output: tokens."""

    at: float
    tenant: str
    prompt: int
    output: int
    weight: float = 1.0
    service_class: int = 1
    priority: int = 0


@dataclass
class Outcome:
    """By tenant. waits: seconds to each first token. service: (seconds, tokens counted so far), after each step."""

    waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    service: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def served(self, tenant: str, start: float, end: float) -> float:
        """Tokens counted from one moment to another."""
        return self._at(tenant, end) - self._at(tenant, start)

    def total(self) -> float:
        return sum(points[-1][1] for points in self.service.values())

    def _at(self, tenant: str, seconds: float) -> float:
        points = self.service[tenant]
        before = bisect.bisect_right(points, seconds, key=lambda point: point[0])
        return points[before - 1][1] if before else 0.0


class Simulation:
    """One engine; no two prompts share anything. told_apart: it knows tenants; else all that comes is one's.

    A token of a prompt or an output counts as the scheduler has it, but over no weight. now: seconds.
    """

    def __init__(self, model: EngineModel, asks: Iterable[Ask], told_apart: bool = True) -> None:
        self.now = 0.0
        self.outcome = Outcome()
        self.open: dict[Sequence, Ask] = {}
        self._model = model
        self._asks = sorted(asks)
        self._told_apart = told_apart
        self._arrivals = itertools.count()
        self._served: dict[str, float] = defaultdict(float)
        limits = StepLimits(model.max_num_seqs, model.batched_tokens)
        longest = max((ask.prompt + ask.output for ask in self._asks), default=1)
        tables = BlockTables(model.max_num_seqs, -(-longest // BLOCK))
        pool = BlockPool(model.kv_tokens // BLOCK, BLOCK)
        self.scheduler = Scheduler(pool, tables, limits, EngineCounters())

    def run(self, until: float = float("inf")) -> Outcome:
        """To the end of all, or that moment."""
        while self.now < until and self.step():
            pass
        return self.outcome

    def step(self) -> bool:
        """One of the engine's, or the wait for who comes next. False: there is nothing left."""
        came = self._next
        while came < len(self._asks) and self._asks[came].at <= self.now:
            self._add(self._asks[came])
            came += 1
        self._next = came
        plan = self.scheduler.schedule()
        if not plan:
            if came == len(self._asks):
                return False
            self.now = self._asks[came].at
            return True
        self.scheduler.started(plan)
        decodes = sum(s.sequence.num_output > 0 and s.count == 1 for s in plan)
        prompts = sum(s.count for s in plan) - decodes
        self.now += self._model.step_seconds(prompts, decodes)
        for scheduled in plan:
            self._ran(scheduled)
        for tenant, tokens in self._served.items():
            self.outcome.service[tenant].append((self.now, tokens))
        return True

    _next = 0

    def _add(self, ask: Ask) -> None:
        whose = (ask.tenant, ask.weight, ask.service_class) if self._told_apart else ("", 1.0, 1)
        params = SamplingParams(ask.output, ignore_eos=True)
        number = next(self._arrivals)
        request = Request(str(number), [number] * ask.prompt, params, ask.priority, [], False, 0, *whose)
        sequence = Sequence(request, 0, number, ask.prompt + ask.output)
        self.open[sequence] = ask
        self.scheduler.add(sequence)

    def _ran(self, scheduled: Scheduled) -> None:
        sequence = scheduled.sequence
        ask = self.open[sequence]
        if sequence.num_output == 0:  # what is computed again is no service
            self._served[ask.tenant] += PROMPT_TOKEN * scheduled.count
        if sequence.pending:
            return
        sequence.tokens.append(1)
        sequence.account.charge_output(1, sequence.request.weight)
        self._served[ask.tenant] += OUTPUT_TOKEN
        if sequence.num_output == 1:
            self.outcome.waits[ask.tenant].append(self.now - ask.at)
        if len(sequence.tokens) == sequence.limit:
            self.scheduler.remove(sequence)
            del self.open[sequence]
