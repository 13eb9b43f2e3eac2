"""The ingress's `Backend` over a Serve handle: one call of a replica each, errors unwrapped, no wait without an end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from deployments.errors import (
    EngineAwaitedError,
    EngineAwayError,
    EngineUnavailableError,
    NodeLostError,
    ServeError,
    unwrap,
)
from deployments.health import HealthReport, Members, Question
from deployments.http import request_record
from deployments.http.channels import RETRY_AFTER_S, SILENCE_S, Channels
from deployments.http.receipts import Receipts
from deployments.http.shared_answer import SharedAnswer
from deployments.http.survey import survey
from deployments.protocol import Delta, GenerationRequest, ModelInfo
from monitoring import IngressMetrics

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator

TAKEN_S = 1.0
"""A living replica takes a request within milliseconds, on a busy machine within this."""

ASKED_AGAIN_S = 5.0
"""Where none takes it, the router is asked once more after this."""

HEALTH_TAKEN_S = 5.0
"""Whoever asks for the health does not wait for an engine to start."""

HEALTH_FRESH_S = 0.1
"""However many ask for the health, which takes no key, engines are asked once in so long, and not again meanwhile."""

HEALTH_PATIENCE_S = 2.0
"""Unless that takes longer: by then there may be others than the one that hangs."""

TOLD_S = 0.2
ANSWER_MARGIN_S = 5.0


class HandleBackend:
    """Implements `deployments.protocol.Backend`.

    Serve's handle waits for ever where no replica is alive. Here a request waits for `timeout_s`, and no more than
    `most_waiting` do at once; then EngineAwayError is raised. heartbeat_s: within which a replica knows of its engine.
    members: who there is, where somebody knows it.
    """

    def __init__(
        self,
        handle: DeploymentHandle,
        timeout_s: float = 30.0,
        most_waiting: int = 256,
        heartbeat_s: float = 60.0,
        metrics: IngressMetrics | None = None,
        members: Callable[[], Awaitable[Members | None]] | None = None,
    ) -> None:
        # Of a single answer over gRPC it is not known that it is being made, before it is there.
        self._handle = handle
        # gRPC: for each item a quarter of the work of Ray's objects, and a replica learns when its caller is killed.
        self._streaming = handle.options(stream=True, _by_reference=False)
        receive = handle.options(_by_reference=False).received.remote
        self._timeout_s = timeout_s
        self._most_waiting = most_waiting
        self._heartbeat_s = heartbeat_s
        self._metrics = metrics
        self._members = members
        self._health = SharedAnswer(self._asked_health, HEALTH_FRESH_S, HEALTH_PATIENCE_S)
        self._waiting = 0
        self._lost: NodeLostError | None = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._channels = Channels(self._streaming.attach.remote)
        self._receipts = Receipts(self._channels, lambda receipt: self._call(receive, receipt, timeout_s=0.0))

    def lose_node(self) -> None:
        """From now on every call raises NodeLostError, and so do those that wait for something."""
        self._lost = NodeLostError("The server's node ended.", retry_after=RETRY_AFTER_S)
        for call in self._calls:
            call.cancel()

    def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        return self._answer(request, whole=False)

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        async with contextlib.aclosing(self._answer(request, whole=True)) as batches:
            return [delta async for batch in batches for delta in batch]

    async def _answer(self, request: GenerationRequest, whole: bool) -> AsyncGenerator[list[Delta], None]:
        """First on the call that asks for it, then with all other answers; see `deployments.replica.delivery`."""
        request = msgspec.structs.replace(request, reader=self._channels.reader)
        unfinished, together = request.unfinished, False
        with self._channels.inbox(request.request_id) as inbox:
            response = await self._taken(lambda: self._streaming.stream.remote(request, whole), self._timeout_s)
            request_record.taken(request.first_id)
            async with _answering(response):
                while unfinished:
                    with self._here():
                        if together:
                            deltas = await inbox.next()
                        else:
                            engine, news = await _next(response)
                            inbox.engine, together, deltas = engine, news is None, news or []
                    unfinished -= sum(delta.finish_reason is not None for delta in deltas)
                    if unfinished and deltas and not together and not whole:
                        self._channels.listen(engine)
                    if deltas:
                        yield deltas
                # Whoever gets the answer has asked for more: all of it has been passed on.
                self._receipts.add(engine, request.request_id)

    async def health(self) -> HealthReport:
        """Of every engine, as far as it is known who is there; else of one of them."""
        return await self._health.get()

    async def _asked_health(self) -> HealthReport:
        members = None if self._members is None else await self._members()
        timeout_s = HEALTH_TAKEN_S + self._heartbeat_s + ANSWER_MARGIN_S
        if members is not None:
            return await survey(members, self._health_of, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._health_of(None)
        except TimeoutError:
            raise EngineUnavailableError("The replica does not answer.", retry_after=RETRY_AFTER_S) from None

    async def _health_of(self, engine: str | None) -> HealthReport:
        asked = () if engine is None else (Question(engine),)
        report: HealthReport = await self._call(self._handle.health.remote, *asked, timeout_s=HEALTH_TAKEN_S)
        return report

    async def info(self) -> ModelInfo:
        info: ModelInfo = await self._call(self._handle.info.remote)
        return info

    async def _call(self, ask: Callable[..., Any], *arguments: Any, timeout_s: float | None = None) -> Any:
        response = await self._taken(lambda: ask(*arguments), self._timeout_s if timeout_s is None else timeout_s)
        async with _answering(response):
            with self._here():
                return _raised(await response)

    async def _taken(self, ask: Callable[[], Any], timeout_s: float) -> Any:
        """The call of a replica that has taken it. Raises EngineAwayError where none does in time.

        One that was sent to a replica that does not answer is taken back, and the router sends it elsewhere.
        """
        deadline, within = _now() + timeout_s, TAKEN_S
        with contextlib.ExitStack() as waiting:
            while True:
                response = ask()
                async with _answering(response):
                    with self._here():
                        if await _is_taken(response, within):
                            return response
                response.cancel()
                if (left := deadline - _now()) <= 0:
                    raise EngineAwayError(f"No engine is there, for {timeout_s:g} s.", retry_after=RETRY_AFTER_S)
                if within == TAKEN_S:
                    waiting.enter_context(self._room())
                within = min(ASKED_AGAIN_S, left)

    @contextlib.contextmanager
    def _here(self) -> Iterator[None]:
        """Raises NodeLostError where the node is lost, or while the block waits."""
        if self._lost is not None:
            raise self._lost
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        try:
            yield
        except asyncio.CancelledError:
            if self._lost is None or call.uncancel() > 0:
                raise
            raise self._lost from None
        finally:
            self._calls.discard(call)

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


async def _next(response: DeploymentResponseGenerator[Any]) -> tuple[str, list[Delta] | None]:
    """What comes on the call. Raises EngineUnavailableError where nothing comes, nor a sign of life."""
    try:
        async with asyncio.timeout(SILENCE_S):
            item: tuple[str, list[Delta] | None] = _raised(await anext(response))
            return item
    except TimeoutError:
        response.cancel()
        message = f"The engine's replica has said nothing for {SILENCE_S:g} s."
    except StopAsyncIteration:
        message = "The replica ended its answer before the end."
    raise EngineUnavailableError(message, retry_after=RETRY_AFTER_S)


async def _is_taken(response: DeploymentResponse[Any] | DeploymentResponseGenerator[Any], within_s: float) -> bool:
    """Whether a replica takes the call within so many seconds; what goes wrong with that, the answer says."""
    # Serve has no public way to ask for this alone; a replica may take minutes before its first word.
    sent = response._replica_result_future
    taken = asyncio.wrap_future(sent) if isinstance(sent, concurrent.futures.Future) else sent
    await asyncio.wait([taken], timeout=within_s)
    if taken.done() and not taken.cancelled():
        taken.exception()
    return taken.done()


def _now() -> float:
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def _answering(
    response: DeploymentResponse[Any] | DeploymentResponseGenerator[Any],
) -> AsyncGenerator[None, None]:
    """Errors come out unwrapped; the replica is told where nobody waits any more."""
    try:
        yield
    except Exception as error:
        raise unwrap(error) from error
    except asyncio.CancelledError as error:
        response.cancel()
        if (task := asyncio.current_task()) is not None and not task.cancelling():
            # Serve cancels calls for a client that has left a moment before it tells us so.
            await asyncio.sleep(TOLD_S)
            # Or it was cancelled at the other end, and Serve raises here what was raised there.
            raise EngineUnavailableError("The replica ended the call.", retry_after=RETRY_AFTER_S) from error
        raise
    except BaseException:
        response.cancel()
        raise


def _raised(result: Any) -> Any:
    """A replica hands its errors over as values."""
    if isinstance(result, ServeError):
        raise result
    return result
