"""Completions with what they repeat, on their way to the dialects."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import zlib
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import msgspec

from deployments.attribution.index import Index
from deployments.attribution.search import BEFORE, Looked
from deployments.attribution.watch import Watch
from deployments.errors import AttributionUnavailableError
from deployments.health import HealthReport
from deployments.http import request_record
from deployments.protocol import WHOLE_NEWS_S, Backend, Delta, GenerationRequest, ModelInfo, gathered
from model.text.before import text_before
from model.text.detokenizer import Detokenizer
from model.text.tokenizer import Tokenizer
from monitoring import IngressMetrics, logs
from monitoring.attribution import AttributionMetrics

_BROKEN = (sqlite3.Error, OSError, zlib.error, UnicodeDecodeError)


class Attributor:
    """An index, and the thread that looks into it: no event loop waits for a disk.

    block: completions end before they have repeated too much of it.
    """

    def __init__(self, index: Index, block: bool = False) -> None:
        self.block = block
        self._index = index
        self._thread = ThreadPoolExecutor(1, "attribution")

    @classmethod
    def open(cls, directory: Path, block: bool = False) -> Attributor:
        """Raises ConfigError."""
        return cls(Index.open(directory), block)

    async def look(self, before: str, text: str) -> Looked:
        """Raises sqlite3.Error, OSError and what else a broken index brings about."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, Looked, self._index, before, text)

    def close(self) -> None:
        self._thread.shutdown()
        self._index.close()


class AttributedBackend:
    """A `Backend` whose completions end with what they repeat: `Delta.attributions`.

    Where an index cannot be read, answers say nothing of it; where copies are blocked, AttributionUnavailableError is
    raised. metrics: the recorder, or None until the model's name is known.
    """

    def __init__(
        self,
        backend: Backend,
        attributor: Attributor,
        tokenizer: Tokenizer,
        metrics: Callable[[], IngressMetrics | None] = lambda: None,
    ) -> None:
        self._backend = backend
        self._attributor = attributor
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._told = False

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        completions = self._completions(request)
        async with aclosing(self._backend.stream(request)) as batches:
            async for deltas in batches:
                news = [told for delta in deltas if (told := await completions[delta.index].more(delta)) is not None]
                if news:
                    yield news
                if any(one.blocked for one in completions) and all(one.ended for one in completions):
                    request_record.whole(request.request_id)
                    return  # an engine may be about to go on with what is blocked

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        """Where copies are blocked it is a stream, too: what is blocked is not computed to its end."""
        if not self._attributor.block:
            completions = self._completions(request)
            told = [await completions[delta.index].more(delta) for delta in await self._backend.generate(request)]
            return [delta for delta in told if delta is not None]
        return await gathered(self.stream(msgspec.structs.replace(request, news_s=WHOLE_NEWS_S)))

    async def health(self) -> HealthReport:
        return await self._backend.health()

    async def info(self) -> ModelInfo:
        return await self._backend.info()

    def _completions(self, request: GenerationRequest) -> list[_Completion]:
        befores = [text_before(self._tokenizer, prompt, 2 * BEFORE) for prompt in request.prompts]
        return [self._completion(request, before) for before in befores for _ in range(request.best_of)]

    def _completion(self, request: GenerationRequest, before: str) -> _Completion:
        tokens = Detokenizer(self._tokenizer, request.skip_special) if self._attributor.block else None
        return _Completion(self, before, tokens)

    async def look(self, before: str, text: str) -> Looked:
        try:
            looked = await self._attributor.look(before, text)
        except _BROKEN as error:
            if not self._told:
                logs.event("attribution.unreadable", str(error), level=logging.ERROR)
            self._told = True
            if self.metrics is not None:
                self.metrics.failed()
            raise AttributionUnavailableError("Whether this is somebody's code cannot be told now.") from error
        self._told = False
        return looked

    @property
    def metrics(self) -> AttributionMetrics | None:
        found = self._metrics()
        return None if found is None else found.attribution


class _Completion:
    """One of a request. before: the text that it goes on with. tokens: its own; None: nothing of it is blocked."""

    def __init__(self, backend: AttributedBackend, before: str, tokens: Detokenizer | None) -> None:
        self.ended = self.blocked = False
        self._backend = backend
        self._before = before
        self._tokens = tokens
        self._watch = Watch(self._look, before)
        self._parts: list[str] = []
        self._seconds = 0.0

    async def more(self, delta: Delta) -> Delta | None:
        """What is told of news; None: it has ended before."""
        if self.ended:
            return None
        if self._tokens is not None:
            self._tokens.push(delta.token_ids)
            if (passed := await self._watch.passed(delta.text)) is not None:
                delta = _blocked(delta, passed, self._tokens, "".join(self._parts))
                self.blocked = True
                request_record.blocked(delta.index)
        self._parts.append(delta.text)
        if delta.finish_reason is None:
            return delta
        self.ended = True
        return await self._attributed(delta, "".join(self._parts))

    async def _attributed(self, delta: Delta, text: str) -> Delta:
        try:
            attributions = (await self._look(self._before, text)).attributions
        except AttributionUnavailableError:
            if self._tokens is not None:
                raise
            return delta
        if (metrics := self._backend.metrics) is not None:
            metrics.looked(bool(attributions), delta.blocked, self._seconds)
        return msgspec.structs.replace(delta, attributions=attributions)

    async def _look(self, before: str, text: str) -> Looked:
        looked = await self._backend.look(before, text)
        self._seconds += looked.seconds
        return looked


def _blocked(delta: Delta, text: str, tokens: Detokenizer, told: str) -> Delta:
    """The delta's completion ends with `text`, and with the tokens that are whole in it. told: what came before."""
    end = len(told.replace("\r\n", "\n")) + len(text.replace("\r\n", "\n"))  # as the model writes it
    # Where each of the delta's tokens ends: where the next one begins. The last goes beyond the cut.
    ends = tokens.offsets[len(tokens.offsets) - len(delta.token_ids) + 1 :]
    kept = bisect_right(ends, end)
    return msgspec.structs.replace(
        delta,
        text=text,
        token_ids=delta.token_ids[:kept],
        logprobs=delta.logprobs and delta.logprobs[:kept],
        rule_logprobs=delta.rule_logprobs and delta.rule_logprobs[:kept],
        text_offsets=delta.text_offsets and delta.text_offsets[:kept],
        finish_reason="stop",
        stop_reason=None,
        ended_by=None,
        blocked=True,
    )
