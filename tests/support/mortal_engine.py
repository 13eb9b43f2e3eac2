"""Engines that die after so many tokens, and a backend that asks a new one each time.

What they draw is a function of prompt, output so far and seed, as a real engine's is, and takes no time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from deployments.errors import EngineAwayError
from deployments.health import HealthReport
from deployments.protocol import Delta, GenerationRequest, ModelInfo
from deployments.replica.admission import Admission
from deployments.replica.service import EngineService
from model.process.client import EngineDeadError, FailureKind
from model.request import Output, Request, TokenLogprobs
from model.statistics import EngineStats
from model.text.tokenizer import Tokenizer
from tests.support.recorded_metrics import RecordedMetrics

CODE = "def größe(a, b):\n    if a:\n        return [b, 漢字]  # 🎉\n\n\nclass A:\n    x = (1, 2)\n"


class MortalEngine:
    """Implements `deployments.replica.service.Client`.

    dies_after: tokens of all sequences together; None: never. piece: tokens of one output. generated: tokens so far.
    """

    def __init__(self, tokenizer: Tokenizer, dies_after: int | None, piece: int = 1) -> None:
        self.stats = EngineStats()
        self.last_message_at = 0.0
        self.dead: EngineDeadError | None = None
        self.open_requests = 0
        self.generated = 0
        self.requests: list[Request] = []
        self._eos = tokenizer.eos_id
        self._choices = tokenizer.encode(CODE)
        self._left = dies_after
        self._piece = piece

    def draw(self, request: Request, output: list[int]) -> int:
        """Mostly the text goes on with what follows the last token in `CODE`."""
        seed = 0 if request.params.greedy else request.params.seed
        assert seed is not None, "an engine would choose its own seed, and another one a different seed"
        said = f"{request.prompt_ids} {output} {seed} {len(output)}"
        number = int.from_bytes(hashlib.blake2b(said.encode(), digest_size=4).digest(), "little")
        if number % 53 == 0 and len(output) >= request.params.min_tokens:
            return self._eos
        if output and output[-1] in self._choices and number % 4:
            at = self._choices.index(output[-1])
            return self._choices[(at + 1) % len(self._choices)]
        return self._choices[number % len(self._choices)]

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        self.requests.append(request)
        self.open_requests += 1
        try:
            for output in self._outputs(request):
                await asyncio.sleep(0.01)
                if self.dead is not None:
                    raise self.dead
                if self._left is not None:
                    self._left -= len(output.token_ids)
                    if self._left < 0:
                        self.fail("a rank died")
                        assert self.dead is not None
                        raise self.dead
                self.generated += len(output.token_ids)
                yield output
        finally:
            self.open_requests -= 1

    def _outputs(self, request: Request) -> Iterator[Output]:
        params, known = request.params, list(request.output_ids)
        finish = stop = None
        while finish is None:
            output = Output(request.request_id, logprobs=None if params.logprobs is None else [])
            if params.prompt_logprobs is not None and not known:
                output.prompt_logprobs = [None, *(TokenLogprobs(id, -1.0) for id in request.prompt_ids[1:])]
            while len(output.token_ids) < self._piece and finish is None:
                id = self.draw(request, known)
                known.append(id)
                output.token_ids.append(id)
                if output.logprobs is not None:
                    output.logprobs.append(TokenLogprobs(id, -(id % 7) / 2 - 0.1))
                if id == self._eos or id in params.stop_token_ids:
                    finish, stop = "stop", id
                elif len(known) >= params.max_tokens:
                    finish = "length"
            output.finish_reason, output.stop_token_id = finish, stop  # type: ignore[assignment]
            output.cached_tokens = 0 if request.output_ids else 1
            yield output

    async def ping(self, timeout_s: float) -> EngineStats:
        return self.stats

    async def wait_dead(self) -> EngineDeadError:
        raise NotImplementedError

    def fail(self, reason: str, kind: FailureKind = "died") -> None:
        if self.dead is None:
            self.dead = EngineDeadError(reason, kind)

    async def shutdown(self) -> None:
        self.fail("the engine was shut down", "stopped")


class Fleet:
    """Implements `deployments.protocol.Backend`: one engine after another, each of which answers until it dies.

    lives: tokens after which each dies, the last one None or the fleet is empty then. requests: as each was asked.
    """

    def __init__(self, tokenizer: Tokenizer, lives: list[int | None], piece: int = 1) -> None:
        self.requests: list[GenerationRequest] = []
        self.metrics = RecordedMetrics()
        clock = asyncio.get_running_loop().time
        self.engines = [MortalEngine(tokenizer, life, piece) for life in lives]
        self.services = [
            EngineService(engine, tokenizer, Admission(64, 64), 60, self.metrics, clock, name=f"engine-{number}")
            for number, engine in enumerate(self.engines)
        ]

    @property
    def generated(self) -> int:
        return sum(engine.generated for engine in self.engines)

    def _service(self, request: GenerationRequest) -> EngineService:
        self.requests.append(request)
        for service in self.services:
            if service.client.dead is None:
                return service
        raise EngineAwayError("No engine is there.", retry_after=5)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        async with aclosing(self._service(request).stream(request)) as batches:
            async for batch in batches:
                yield batch

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        return await self._service(request).generate(request)

    async def health(self) -> HealthReport:
        return HealthReport(healthy=any(engine.dead is None for engine in self.engines))

    async def info(self) -> ModelInfo:
        return ModelInfo(id="mortal", max_model_len=4096, created=1)
