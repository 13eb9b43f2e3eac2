"""News of all answers for this ingress, on one connection to each replica (`deployments.replica.outbox`)."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import time
import uuid
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Protocol

import msgspec

from deployments.errors import EngineUnavailableError, ServeError, words_of
from deployments.protocol import Attach, Delta, News, gather

SILENCE_S = 15.0
"""A replica that is at work says so every few seconds (`deployments.replica.outbox.HEARTBEAT_S`)."""

AGAIN_S = 5.0
"""A replica that was not reached is tried again after this."""

RETRY_AFTER_S = 5.0
_decoder = msgspec.msgpack.Decoder(News)


class Call(Protocol):
    """A connection to a replica."""

    async def __anext__(self) -> bytes: ...
    def cancel(self) -> None: ...


class Inbox:
    """What has come of one answer. engine: the replica that gives it, once that is known."""

    def __init__(self) -> None:
        self.engine: str | None = None
        self._pending: dict[int, Delta] = {}
        self._failed: ServeError | None = None
        self._news = asyncio.Event()

    def put(self, deltas: list[Delta]) -> None:
        gather(self._pending, deltas)
        self._news.set()

    def fail(self, error: ServeError) -> None:
        """Behind what has come before. Only the first counts."""
        self._failed = self._failed or error
        self._news.set()

    async def next(self) -> list[Delta]:
        """What has come since the last time, as soon as there is something; merged. Raises what it failed with."""
        await self._news.wait()
        if self._pending:
            pending, self._pending = self._pending, {}
            if self._failed is None:
                self._news.clear()
            return [pending[index] for index in sorted(pending)]
        assert self._failed is not None
        raise self._failed


class Channels:
    """The connections of one ingress process, and where what comes on them goes.

    reader: its name for replicas. attach: opens a connection. clock: Unix seconds. on_lag: hears of each replica's
    name by how much its last message came late.
    """

    def __init__(self, attach: Callable[[Attach], Call], clock: Callable[[], float] = time.time) -> None:
        self.reader = uuid.uuid4().hex
        self._attach = attach
        self._clock = clock
        self._connections: dict[str, asyncio.Task[None]] = {}
        self._inboxes: dict[str, Inbox] = {}
        self._lags: dict[str, _Lag] = {}
        self._again_at: dict[str, float] = {}
        self.on_lag: Callable[[str, float], None] = lambda engine, seconds: None

    @contextlib.contextmanager
    def inbox(self, request_id: str) -> Iterator[Inbox]:
        inbox = self._inboxes[request_id] = Inbox()
        try:
            yield inbox
        finally:
            if self._inboxes.get(request_id) is inbox:
                del self._inboxes[request_id]

    def listen(self, engine: str) -> None:
        """To this replica, from now on and as long as it has something to say."""
        if engine not in self._connections and self._now() >= self._again_at.get(engine, 0.0):
            # It is nobody's request: Serve ends what was asked for one that it cancels, by what its context says.
            connection = asyncio.create_task(self._read(engine), context=Context())
            self._connections[engine] = connection
            connection.add_done_callback(lambda _: self._connections.pop(engine, None))

    def lag_s(self, engine: str) -> float | None:
        """By how much the last message came later than the fastest; None: nothing comes from there."""
        lag = self._lags.get(engine)
        return None if lag is None else lag.seconds

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _read(self, engine: str) -> None:
        lag = self._lags[engine] = _Lag()
        problem = ""
        # Serve leads no calls to a replica that is about to leave. Until it has, answers come on their own calls.
        self._again_at = {known: at for known, at in self._again_at.items() if at > self._now()}
        self._again_at[engine] = self._now() + AGAIN_S
        messages = self._attach(Attach(engine=engine, reader=self.reader))
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    news = _decoder.decode(await messages.__anext__())
                self._again_at.pop(engine, None)
                self._distribute(news)
                await asyncio.sleep(0)  # those that were told have their turn: then it is known how long it took
                lag.saw(self._clock() - news.sent_at)
                self.on_lag(engine, lag.seconds)
        except StopAsyncIteration:
            return  # nothing is under way
        except TimeoutError:
            messages.cancel()
            problem = f"it has said nothing for {SILENCE_S:g} s"
        except (Exception, asyncio.CancelledError) as error:
            # Nobody cancels this task: to be cancelled is what Serve says of a call that was ended at the other end.
            problem = words_of(error)
        finally:
            self._lags.pop(engine, None)
        message = f"The connection to the engine's replica broke: {problem}."
        for inbox in self._inboxes.values():
            # Where it is not known yet which replica it is, it may be this one.
            if inbox.engine is None or inbox.engine == engine:
                inbox.fail(EngineUnavailableError(message, retry_after=RETRY_AFTER_S))

    def _distribute(self, news: News) -> None:
        for request_id, deltas in news.deltas:
            if (inbox := self._inboxes.get(request_id)) is not None:
                inbox.put(deltas)
        for request_id, error in news.errors:
            if (inbox := self._inboxes.get(request_id)) is not None:
                inbox.fail(pickle.loads(error))


class _Lag:
    """Of messages behind the fastest of the last while: clocks of two machines differ, but run alike."""

    KEPT_S = 60.0

    def __init__(self) -> None:
        self.seconds = 0.0
        self._least: list[tuple[float, float]] = []

    def saw(self, age_s: float) -> None:
        now = time.monotonic()
        if not self._least or now - self._least[-1][0] > self.KEPT_S:
            # the least of this minute and of the one before
            self._least = [*self._least[-1:], (now, age_s)]
        elif age_s < self._least[-1][1]:
            self._least[-1] = (self._least[-1][0], age_s)
        self.seconds = age_s - min(least for _, least in self._least)
