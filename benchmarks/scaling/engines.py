"""An engine in simulated time: continuous batching with chunked prefill, as `model.scheduling` does it."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, islice

from deployments.replica.demand import Demand, Prompt

_MOST_LOOKED_AT = 80
"""Prompts of a queue that a step is planned from; it holds fewer."""


@dataclass(frozen=True)
class EngineModel:
    """A step takes max(floor_s, per_token_s * prompt tokens) + per_sequence_s * sequences that decode.

    batched_tokens: of a step. max_num_seqs: sequences that run at once; max_queued: that may wait beyond them.
    kv_tokens: of the cache; a sequence claims all that it may come to.
    """

    name: str
    floor_s: float
    per_token_s: float
    per_sequence_s: float
    batched_tokens: int
    kv_tokens: int
    max_num_seqs: int = 64
    max_queued: int = 256

    def step_seconds(self, prompt_tokens: int, sequences: int) -> float:
        return max(self.floor_s, self.per_token_s * prompt_tokens) + self.per_sequence_s * sequences


H100 = EngineModel(
    "15.5B on an H100",
    floor_s=0.0134,
    per_token_s=53.2e-6,
    per_sequence_s=35e-6,
    batched_tokens=2048,
    kv_tokens=2_000_000,
)
"""An estimate from memory bandwidth and matrix rate, not measured: 13.4 ms for a step of batch 1, 109 ms for 2,048
prompt tokens, 14 ms at 64 sequences and their caches beside that. 41 GB of cache at 20,480 bytes a token."""

PICO = EngineModel(
    "embedded on a CPU core",
    floor_s=0.0033,
    per_token_s=180e-6,
    per_sequence_s=170e-6,
    batched_tokens=512,
    kv_tokens=349_525,
)
"""results/metrics-overhead-pico-*.json: steps of 3.5 and 4.7 ms at batch 1 and 8. results/keystrokes-pico.json: 257 ms
to the first token of a new prompt of 1,416 tokens on average. 512 MiB of cache at 1,536 bytes a token."""


@dataclass(eq=False, slots=True)
class Request:
    """prompt: tokens. computed: of them, those that are in no cache where its session was before. output: tokens.

    left: prompt tokens to compute. finish: on its engine's count of steps; None: it does not decode (any more).
    """

    at: float
    session: int
    prompt: int
    computed: int
    output: int
    priority: int = 0
    left: int = 0
    finish: int | None = None
    first_at: float | None = None
    held: bool = False
    gone: bool = False
    mark: Prompt | None = None
    engine: Engine | None = None


@dataclass
class _Step:
    """started: seconds. count: of steps alike, where nobody has a prompt. prompts: and their tokens in it."""

    started: float
    seconds: float
    count: int = 1
    prompts: list[tuple[Request, int]] = field(default_factory=list)


class Engine:
    """until: when the step that runs now ends, None while idle. told: called with a request at its first token and
    at its end."""

    def __init__(self, model: EngineModel, clock: Callable[[], float], told: Callable[[Request, float], None]) -> None:
        self.model = model
        self.demand = Demand(model.batched_tokens, clock)
        self.until: float | None = None
        self.open = 0
        self.running = 0
        self.kv_tokens = 0
        self._told = told
        self._queues: tuple[deque[Request], deque[Request]] = (deque(), deque())
        self._decoding: list[tuple[int, int, Request]] = []
        self._background: dict[Request, None] = {}
        self._steps = 0
        self._number = 0
        self._step: _Step | None = None
        self._decoders = 0

    def offer(self, request: Request, now: float) -> bool:
        """False: it is refused."""
        self.demand.offer(request.prompt, request.priority)
        if self.open >= self.model.max_num_seqs + self.model.max_queued:
            return False
        self.open += 1
        request.engine = self
        request.mark = self.demand.prompt(request.prompt, request.priority)
        request.left = request.computed
        self._queues[request.priority > 0].append(request)
        self._interrupt(now)
        return True

    def abort(self, request: Request) -> None:
        """Its blocks are free at once; a step that runs with it ends as it would have."""
        if not request.gone:
            self._leave(request)

    def end_step(self) -> None:
        """At `until`."""
        step, now = self._step, self.until
        assert step is not None
        assert now is not None
        tokens = sum(count for _, count in step.prompts)
        self.demand.step(tokens + self._decoders, step.seconds)
        self._steps += step.count
        for request, count in step.prompts:
            if request.gone:
                continue
            request.left -= count
            if request.left <= 0:
                self._first(request, now)
        while self._decoding and self._decoding[0][0] <= self._steps:
            finish, _, request = heapq.heappop(self._decoding)
            if not request.gone and request.finish == finish:
                self._leave(request)
                self._told(request, now)
        self._start(now)

    def _first(self, request: Request, now: float) -> None:
        self._queues[request.priority > 0].remove(request)
        if request.first_at is None:
            request.first_at = now
            assert request.mark is not None
            request.mark.computed(request.computed)
            self._told(request, now)
        self._number += 1
        request.finish = self._steps + request.output - 1
        heapq.heappush(self._decoding, (request.finish, self._number, request))
        self._decoders += 1
        if request.priority > 0:
            self._background[request] = None

    def _leave(self, request: Request) -> None:
        request.gone = True
        assert request.mark is not None
        request.mark.end()
        self.open -= 1
        if request.finish is not None:
            self._decoders -= 1
            self._background.pop(request, None)
        else:
            self._queues[request.priority > 0].remove(request)
        self._unhold(request)

    def _unhold(self, request: Request) -> None:
        if request.held:
            request.held = False
            self.running -= 1
            self.kv_tokens -= request.prompt + request.output

    def _interrupt(self, now: float) -> None:
        if self._step is None:
            self._start(now)
        elif not self._step.prompts and self._step.count > 1:
            step = self._step
            done = min(int((now - step.started) / step.seconds) + 1, step.count)
            step.count, self.until = done, step.started + done * step.seconds

    def _start(self, now: float) -> None:
        prompts = self._plan()
        decoders = self._decoders
        if prompts:
            seconds = self.model.step_seconds(sum(count for _, count in prompts), decoders)
            self._step = _Step(now, seconds, 1, prompts)
        elif decoders:
            while self._decoding[0][2].gone or self._decoding[0][2].finish != self._decoding[0][0]:
                heapq.heappop(self._decoding)
            seconds = self.model.step_seconds(0, decoders)
            self._step = _Step(now, seconds, max(self._decoding[0][0] - self._steps, 1))
        else:
            self._step = self.until = None
            return
        self.until = now + self._step.seconds * self._step.count

    def _plan(self) -> list[tuple[Request, int]]:
        """Prompts by priority and arrival; a quarter of the step for those that end with it (`Scheduler._prefill`)."""
        left = self.model.batched_tokens - self._decoders
        share = min(self.model.batched_tokens // 4, left // 2)
        plan: dict[Request, int] = {}
        unfinished: list[Request] = []
        for request in [*islice(chain(*self._queues), _MOST_LOOKED_AT)]:
            room = left - share
            if room <= 0 or room < request.left <= share:
                unfinished.append(request)
                continue
            if not self._admit(request):
                break
            plan[request] = min(request.left, room)
            left -= plan[request]
            if plan[request] < request.left:
                unfinished.append(request)
        for request in unfinished:
            if request not in plan and request.left <= left and self._admit(request):
                plan[request] = request.left
                left -= request.left
        for request in unfinished:
            more = min(left, request.left - plan.get(request, 0))
            if more > 0 and self._admit(request):
                plan[request] = plan.get(request, 0) + more
                left -= more
        return list(plan.items())

    def _admit(self, request: Request) -> bool:
        if request.held:
            return True
        claim = request.prompt + request.output
        while self.running >= self.model.max_num_seqs or self.kv_tokens + claim > self.model.kv_tokens:
            if request.priority > 0 or not self._background:
                return False
            self._preempt(next(reversed(self._background)))
        request.held = True
        self.running += 1
        self.kv_tokens += claim
        return True

    def _preempt(self, victim: Request) -> None:
        """What it generated stays cached: it starts again with a block of it."""
        assert victim.finish is not None
        self._unhold(victim)
        del self._background[victim]
        self._decoders -= 1
        victim.output = max(victim.finish - self._steps, 1)
        victim.finish, victim.left = None, 16
        self._queues[1].appendleft(victim)
