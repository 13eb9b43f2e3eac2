"""The ingress's `Backend` over a Serve handle: one call of a replica each, errors unwrapped, no wait without an end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, Any

from deployments.errors import EngineAwaitedError, EngineAwayError, EngineUnavailableError, ServeError, unwrap
from deployments.protocol import Delta, GenerationRequest, HealthReport, ModelInfo
from monitoring import IngressMetrics

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator

TAKEN_S = 1.0
"""A living replica takes a request within milliseconds, on a busy machine within this."""

HEALTH_TAKEN_S = 5.0
"""Whoever asks for the health does not wait for an engine to start."""

ANSWER_MARGIN_S = 5.0
RETRY_AFTER_S = 5.0


class HandleBackend:
    """Implements `deployments.protocol.Backend`.

    Serve's handle waits for ever where no replica is alive. Here a request waits for `timeout_s`, and no more than
    `most_waiting` do at once; then EngineAwayError is raised. heartbeat_s: within which a replica knows of its engine.
    """

    def __init__(
        self,
        handle: DeploymentHandle,
        timeout_s: float = 30.0,
        most_waiting: int = 256,
        heartbeat_s: float = 60.0,
        metrics: IngressMetrics | None = None,
    ) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)
        self._timeout_s = timeout_s
        self._most_waiting = most_waiting
        self._heartbeat_s = heartbeat_s
        self._metrics = metrics
        self._waiting = 0

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        response = self._streaming.stream.remote(request)
        with _answering(response):
            await self._taken(response, self._timeout_s)
            async for deltas in response:
                yield _raised(deltas)

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        deltas: list[Delta] = await self._call("generate", request)
        return deltas

    async def health(self) -> HealthReport:
        try:
            async with asyncio.timeout(HEALTH_TAKEN_S + self._heartbeat_s + ANSWER_MARGIN_S):
                report: HealthReport = await self._call("health", timeout_s=HEALTH_TAKEN_S)
                return report
        except TimeoutError:
            raise EngineUnavailableError("The replica does not answer.", retry_after=RETRY_AFTER_S) from None

    async def info(self) -> ModelInfo:
        info: ModelInfo = await self._call("info")
        return info

    async def _call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        response = getattr(self._handle, method).remote(*arguments)
        with _answering(response):
            await self._taken(response, self._timeout_s if timeout_s is None else timeout_s)
            return _raised(await response)

    async def _taken(
        self, response: DeploymentResponse[Any] | DeploymentResponseGenerator[Any], timeout_s: float
    ) -> None:
        """Return when a replica has taken the call. Raises EngineAwayError where none does in time."""
        # Serve has no public way to ask for this alone; a replica may take minutes before its first word.
        sent = response._replica_result_future
        taken = asyncio.wrap_future(sent) if isinstance(sent, concurrent.futures.Future) else sent
        if await _done(taken, TAKEN_S):
            return
        try:
            with self._room():
                if await _done(taken, timeout_s - TAKEN_S):
                    return
            raise EngineAwayError(f"No engine is there, for {timeout_s:g} s.", retry_after=RETRY_AFTER_S)
        except EngineAwayError:
            response.cancel()
            raise

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """A place among those that wait for an engine."""
        if self._waiting >= self._most_waiting:
            message = f"No engine is there, and {self._waiting} requests wait for one."
            raise EngineAwaitedError(message, retry_after=RETRY_AFTER_S)
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._waiting += change
        if self._metrics is not None:
            self._metrics.waiting_for_engine(self._waiting)


async def _done(taken: asyncio.Future[Any], timeout_s: float) -> bool:
    """Whether it is within so many seconds; its error, if it has one, comes out with the answer."""
    if timeout_s > 0:
        await asyncio.wait([taken], timeout=timeout_s)
    if taken.done() and not taken.cancelled():
        taken.exception()
    return taken.done()


@contextlib.contextmanager
def _answering(response: DeploymentResponse[Any] | DeploymentResponseGenerator[Any]) -> Iterator[None]:
    """Errors come out unwrapped; the replica is told where nobody waits any more."""
    try:
        yield
    except Exception as error:
        raise unwrap(error) from error
    except BaseException:
        response.cancel()
        raise


def _raised(result: Any) -> Any:
    """A replica hands its errors over as values."""
    if isinstance(result, ServeError):
        raise result
    return result
