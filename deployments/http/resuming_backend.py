"""A request outlives its engine: another one goes on with it, exactly where it was.

Draws are a function of seed and place in the output, and the text of what was generated does not depend on the pieces
in which it came. So the tokens so far are all that another engine needs: it goes on with `GenerationRequest.earlier`,
and what it says is what the first one would have said. Where no seed is given, one is chosen here for all engines.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from deployments.errors import (
    EngineAwaitedError,
    EngineAwayError,
    EngineUnavailableError,
    OverloadedError,
    ServeError,
)
from deployments.health import HealthReport
from deployments.protocol import Backend, Delta, Earlier, GenerationRequest, ModelInfo, TakenOver
from monitoring import IngressMetrics, logs

MOST_RESUMPTIONS = 2
"""A request may itself be what ends engines: it is not given a fourth."""

SHORTEST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0
RETRY_AFTER_S = 5.0

Answer = TypeVar("Answer")


class ResumingBackend:
    """Implements `deployments.protocol.Backend` over one whose engines may die.

    timeout_s: how long a request whose engine died waits for one that goes on with it. seeds: of requests without one.
    """

    def __init__(
        self, backend: Backend, timeout_s: float, seeds: random.Random, metrics: IngressMetrics | None = None
    ) -> None:
        self._backend = backend
        self._timeout_s = timeout_s
        self._seeds = seeds
        self._metrics = metrics

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        progress = Progress(self._asked(request))
        trials = Trials(self._timeout_s, request, self._metrics)
        while True:
            try:
                async with aclosing(self._backend.stream(progress.request())) as batches:
                    async for deltas in batches:
                        progress.saw(deltas)
                        trials.answered()
                        yield deltas
                if progress.finished:
                    return
                raise EngineUnavailableError("The engine ended its answer before the end.", retry_after=RETRY_AFTER_S)
            except ServeError as error:
                await trials.again(error)

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        """Nobody has seen what a dead engine generated, so the next one begins anew, with the same draws."""
        progress = Progress(self._asked(request))
        return await self._patiently(lambda: self._backend.generate(progress.request()), request)

    async def health(self) -> HealthReport:
        return await self._backend.health()

    async def info(self) -> ModelInfo:
        return await self._patiently(self._backend.info)

    async def _patiently(
        self, call: Callable[[], Awaitable[Answer]], request: GenerationRequest | None = None
    ) -> Answer:
        trials = Trials(self._timeout_s, request, self._metrics)
        while True:
            try:
                answer = await call()
            except ServeError as error:
                await trials.again(error)
            else:
                trials.answered()
                return answer

    def _asked(self, request: GenerationRequest) -> GenerationRequest:
        seed = None if request.params.seed is not None or request.params.greedy else self._seeds.getrandbits(63)
        return msgspec.structs.replace(request, drawn_seed=seed, asked_at=time.time())


@dataclass
class _Completion:
    """One completion as its client knows it. resumed: some of it came from an engine that died; cached: as it said."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False
    taken_over: TakenOver | None = None
    resumed: bool = False
    cached: int = 0

    @property
    def begun(self) -> bool:
        return bool(self.token_ids or self.taken_over or self.finished)

    def earlier(self) -> Earlier:
        if self.finished:
            return Earlier(finished=True)
        # copies: these lists grow while the engine runs
        return Earlier(token_ids=[*self.token_ids], logprobs=[*self.logprobs], taken_over=self.taken_over)


class Progress:
    """What a request has come to, from engine to engine. finished: each completion is whole."""

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._completions = [_Completion() for _ in range(len(request.prompts) * request.best_of)]
        self._rules = request.rules is not None and request.rules.needs_logprobs
        self._started_at = time.monotonic()
        self._attempts = 0

    @property
    def finished(self) -> bool:
        return all(completion.finished for completion in self._completions)

    def request(self) -> GenerationRequest:
        """What the next engine is asked."""
        attempt, self._attempts = self._attempts, self._attempts + 1
        if not attempt:
            return self._request
        limit = self._request.max_time_ms
        if limit is not None:
            limit = max(1, limit - int((time.monotonic() - self._started_at) * 1000))
        for completion in self._completions:
            completion.resumed = completion.begun
        begun = any(completion.begun for completion in self._completions)
        return msgspec.structs.replace(
            self._request,
            # An engine may still know the old one, if only the way to it broke: `first_id`.
            request_id=f"{self._request.request_id}~{attempt}",
            attempt=attempt,
            max_time_ms=limit,
            earlier=tuple(completion.earlier() for completion in self._completions) if begun else (),
        )

    def saw(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            completion = self._completions[delta.index]
            told = 0
            if delta.taken_over is not None:
                completion.taken_over, told = delta.taken_over, delta.taken_over.told
            completion.token_ids += delta.token_ids[told:]
            if self._rules:
                chosen = [entry.logprob for entry in delta.logprobs or ()] if delta.logprobs else delta.rule_logprobs
                completion.logprobs += (chosen or [])[told:]
            completion.finished = delta.finish_reason is not None
            if completion.resumed:
                # What the next engine found in its cache is no news of the request.
                delta.cached_tokens = completion.cached
            completion.cached = max(completion.cached, delta.cached_tokens)


class Trials:
    """Says whether a request that failed may be asked of an engine again, and when. request: None for small calls."""

    def __init__(self, timeout_s: float, request: GenerationRequest | None, metrics: IngressMetrics | None) -> None:
        self._timeout_s = timeout_s
        self._id = None if request is None else request.client_request_id or request.request_id
        self._metrics = metrics
        self._deaths = 0
        self._resuming = False
        self._pause_s = SHORTEST_PAUSE_S
        self._deadline = _now() + timeout_s

    def answered(self) -> None:
        """An engine has said something."""
        if self._resuming:
            self._resuming = False
            self._count(resumed=True)

    async def again(self, error: ServeError) -> None:
        """Return when the request may be sent again; raises where it may not."""
        died = isinstance(error, EngineUnavailableError) and not isinstance(error, EngineAwayError)
        if died:
            self._deaths += 1
            self._resuming = True
            self._deadline = _now() + self._timeout_s
            self._pause_s = SHORTEST_PAUSE_S
        refused = isinstance(error, OverloadedError | EngineAwaitedError)
        if not isinstance(error, EngineUnavailableError | OverloadedError) or (refused and not self._deaths):
            raise error
        left = self._deadline - _now()
        if self._deaths > MOST_RESUMPTIONS:
            self._give_up(error, f"{self._deaths} engines died one after the other while they ran this request.", None)
        if left <= 0:
            self._give_up(error, f"{error.message} No engine took the request over in time.", error.retry_after)
        if died:
            logs.event("request.resuming", error.message, request_id=self._id)
        await asyncio.sleep(min(self._pause_s, left))
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _give_up(self, error: ServeError, message: str, retry_after: float | None) -> None:
        if not self._deaths:
            raise error
        self._count(resumed=False)
        raise EngineUnavailableError(message, retry_after=retry_after) from error

    def _count(self, resumed: bool) -> None:
        if self._metrics is not None and self._id is not None:
            self._metrics.engine_died(resumed)


def _now() -> float:
    return asyncio.get_running_loop().time()
