"""Requests, engines and a controller in simulated time, and what came of it."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

import numpy as np
from ray.serve.config import AutoscalingConfig

from benchmarks.scaling.controller import TICK_S, Controller
from benchmarks.scaling.engines import Engine, EngineModel, Request
from benchmarks.scaling.traces import Trace

BOUND_S = 0.3
IMBALANCE = 8
"""`Settings.routing_imbalance`."""
BULK_RETRY_S = 5.0
DRAIN_S = 30.0
"""`Settings.drain_timeout_s`."""


@dataclass
class Outcome:
    """Of one run. replica_seconds: from the moment that a replica is asked for until it has ended.

    ttft: seconds, of requests of people that got a first token. late: of those that were superseded before, the ones
    that had waited longer than `BOUND_S` by then. superseded: the others, of which nobody can say. refused: 429.
    bulk_seconds: that the job took, None where it did not end. peak: most replicas.
    """

    replica_seconds: float = 0.0
    ttft: list[float] = field(default_factory=list)
    late: int = 0
    superseded: int = 0
    refused: int = 0
    bulk_seconds: float | None = None
    peak: int = 0
    changes: int = 0

    @property
    def asked(self) -> int:
        """Those that count."""
        return len(self.ttft) + self.late + self.refused

    @property
    def share_in_time(self) -> float:
        return sum(seconds <= BOUND_S for seconds in self.ttft) / self.asked if self.asked else 1.0

    def figures(self) -> dict[str, float | int | None]:
        p50, p99 = np.percentile(self.ttft, (50, 99)) if self.ttft else (math.nan, math.nan)
        return {
            "replica_hours": round(self.replica_seconds / 3600, 3),
            "percent_in_time": round(100 * self.share_in_time, 2),
            "p50_ttft_ms": round(1000 * float(p50), 1) if self.ttft else None,
            "p99_ttft_ms": round(1000 * float(p99), 1) if self.ttft else None,
            "percent_refused": round(100 * self.refused / max(self.asked, 1), 2),
            "requests": self.asked + self.superseded,
            "peak_replicas": self.peak,
            "changes": self.changes,
            "bulk_minutes": None if self.bulk_seconds is None else round(self.bulk_seconds / 60, 1),
        }


@dataclass(eq=False)
class _Replica:
    number: int
    engine: Engine
    asked_at: float
    ready_at: float
    stops_at: float = math.inf


class Simulation:
    """scaling: Serve's configuration, or a fixed number of replicas. cold_start: seconds from asking to serving."""

    def __init__(self, model: EngineModel, trace: Trace, scaling: AutoscalingConfig | int, cold_start: float) -> None:
        self._model = model
        self._trace = trace
        self._cold_start = cold_start
        self._controller = None if isinstance(scaling, int) else Controller(scaling)
        self._now = 0.0
        self._fleet: list[_Replica] = []
        self._numbers = 0
        self._events: list[tuple[float, int, _Replica]] = []
        self._order = 0
        self._homes: dict[int, _Replica] = {}
        self._newest: dict[int, Request] = {}
        self._retries: list[tuple[float, int]] = []
        self._bulk_left = trace.bulk.count if trace.bulk else 0
        self._bulk_open = 0
        self.outcome = Outcome()
        for _ in range(scaling if isinstance(scaling, int) else scaling.min_replicas):
            self._start_replica(cold_start=0.0)

    def run(self) -> Outcome:
        requests = self._trace.requests()
        requests.append(Request(math.inf, -1, 0, 0, 0))
        following, tick = 0, 0.0
        record = 0.0
        bulk_at = self._trace.bulk.at if self._trace.bulk else math.inf
        while True:
            step = self._events[0][0] if self._events else math.inf
            retry = self._retries[0][0] if self._retries else math.inf
            now = min(requests[following].at, step, tick, record, bulk_at, retry)
            if now >= self._trace.seconds:
                break
            self._now = now
            if now == step:
                _, _, replica = heapq.heappop(self._events)
                if replica.engine.until == now:
                    replica.engine.end_step()
                    self._expect(replica)
            elif now == requests[following].at:
                self._ask(requests[following])
                following += 1
            elif now == record:
                self._record()
                record += self._controller.record_every if self._controller else math.inf
            elif now == tick:
                self._control()
                tick += TICK_S
            elif now == bulk_at:
                bulk_at = math.inf
                assert self._trace.bulk is not None
                for _ in range(self._trace.bulk.concurrency):
                    self._ask_bulk()
            else:
                heapq.heappop(self._retries)
                self._ask_bulk()
        for replica in self._fleet:
            self.outcome.replica_seconds += self._trace.seconds - replica.asked_at
        return self.outcome

    def _running(self) -> list[_Replica]:
        return [r for r in self._fleet if r.ready_at <= self._now and r.stops_at == math.inf]

    def _expect(self, replica: _Replica) -> None:
        if replica.engine.until is not None:
            self._order += 1
            heapq.heappush(self._events, (replica.engine.until, self._order, replica))

    def _ask(self, request: Request) -> None:
        earlier = self._newest.get(request.session)
        if earlier is not None and not earlier.gone:
            if earlier.first_at is None:
                late = self._now - earlier.at > BOUND_S
                self.outcome.late += late
                self.outcome.superseded += not late
            assert earlier.engine is not None
            earlier.engine.abort(earlier)
        running = self._running()
        if not running:
            self.outcome.refused += 1
            return
        least = min(running, key=lambda r: r.engine.open)
        home = self._homes.get(request.session)
        if home is None or home.stops_at < math.inf or home.engine.open > least.engine.open + IMBALANCE:
            home = self._homes[request.session] = least
            request.computed = request.prompt
        if home.engine.offer(request, self._now):
            self._newest[request.session] = request
            self._expect(home)
        else:
            self.outcome.refused += 1
            self._newest.pop(request.session, None)

    def _ask_bulk(self) -> None:
        bulk = self._trace.bulk
        assert bulk is not None
        if self._bulk_left <= 0:
            if not self._bulk_open and self.outcome.bulk_seconds is None:
                self.outcome.bulk_seconds = self._now - bulk.at
            return
        running = self._running()
        request = Request(self._now, -1, bulk.prompt, bulk.prompt, bulk.output, bulk.priority)
        least = min(running, key=lambda r: r.engine.open, default=None)
        if least is None or not least.engine.offer(request, self._now):
            heapq.heappush(self._retries, (self._now + BULK_RETRY_S, 0))
            return
        self._bulk_left -= 1
        self._bulk_open += 1
        self._expect(least)

    def _told(self, request: Request, at: float) -> None:
        if request.session >= 0:
            if not request.gone:
                assert request.first_at is not None
                self.outcome.ttft.append(request.first_at - request.at)
        elif request.gone:
            self._bulk_open -= 1
            self._ask_bulk()

    def _record(self) -> None:
        if self._controller is not None:
            running = self._running()
            reports = {r.number: report(r.engine) for r in running}
            self._controller.record(self._now, reports, sum(r.engine.open for r in running))

    def _control(self) -> None:
        for replica in [r for r in self._fleet if r.stops_at < math.inf]:
            if not replica.engine.open or self._now >= replica.stops_at:
                self._end(replica)
        if self._controller is not None:
            before = self._controller.target
            target = self._controller.decide(self._now, [r.number for r in self._running()])
            self.outcome.changes += target != before
            staying = [r for r in self._fleet if r.stops_at == math.inf]
            for _ in range(target - len(staying)):
                self._start_replica(self._cold_start)
            # Serve stops first what does not run yet.
            for replica in sorted(staying, key=lambda r: -r.ready_at)[: max(len(staying) - target, 0)]:
                replica.stops_at = self._now + DRAIN_S
                if replica.ready_at > self._now:
                    self._end(replica)
        self.outcome.peak = max(self.outcome.peak, len(self._fleet))

    def _start_replica(self, cold_start: float) -> None:
        self._numbers += 1
        engine = Engine(self._model, lambda: self._now, self._told)
        self._fleet.append(_Replica(self._numbers, engine, self._now, self._now + cold_start))

    def _end(self, replica: _Replica) -> None:
        self._fleet.remove(replica)
        self.outcome.replica_seconds += self._now - replica.asked_at
        if self._controller is not None:
            self._controller.forget(replica.number)


def report(engine: Engine) -> dict[str, float]:
    """As `Replica.record_autoscaling_stats` makes it."""
    return {
        "running": float(engine.running),
        "waiting": float(engine.open - engine.running),
        "kv_usage": engine.kv_tokens / engine.model.kv_tokens,
        **engine.demand.report(),
    }
