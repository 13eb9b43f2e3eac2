"""The asyncio side of an engine that runs in another process. Imports no PyTorch."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Callable
from typing import Literal

from model.process.wire import HEADER, Abort, Command, Ping, Pong, Report, Shutdown, Step, Submit, frame, report
from model.request import Output, Request
from model.statistics import EngineStats, GpuMemory, StepTiming

FailureKind = Literal["died", "hung", "heartbeat", "stopped"]


class EngineDeadError(RuntimeError):
    """The engine's process is gone, or was declared dead; every open request ends with this.

    kind: stopped is no failure: the engine was asked to end.
    """

    def __init__(self, reason: str, kind: FailureKind = "died") -> None:
        super().__init__(reason)
        self.kind = kind


class _Stream:
    """Outputs of one request that nobody has fetched yet."""

    def __init__(self) -> None:
        self.arrived: list[Output] = []
        self.news = asyncio.Event()


def merge(outputs: list[Output]) -> Output:
    """One output that says what consecutive outputs of a request say together."""
    first, last = outputs[0], outputs[-1]
    if len(outputs) == 1:
        return first
    return Output(
        request_id=first.request_id,
        token_ids=[t for o in outputs for t in o.token_ids],
        logprobs=None if first.logprobs is None else [entry for o in outputs for entry in o.logprobs or []],
        prompt_logprobs=first.prompt_logprobs,
        finish_reason=last.finish_reason,
        stop_token_id=last.stop_token_id,
        cached_tokens=first.cached_tokens,
        queue_seconds=first.queue_seconds,
        failure=last.failure,
    )


class EngineClient:
    """Many concurrent requests to one engine. Use it from one event loop.

    gpus: memory of the ranks' GPUs at the last ping. on_step: called with the timing of every step.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.stats = EngineStats()
        self.last_message_at = time.monotonic()
        self.dead: EngineDeadError | None = None
        self.gpus: list[GpuMemory] = []
        self.on_step: Callable[[StepTiming], None] = lambda _: None
        self._reader = reader
        self._writer = writer
        self._streams: dict[str, _Stream] = {}
        self._pongs: dict[int, asyncio.Future[EngineStats]] = {}
        self._numbers = itertools.count()
        self._died = asyncio.Event()
        self._receiver = asyncio.create_task(self._receive())

    @classmethod
    async def connect(cls, socket_path: str, timeout_s: float) -> EngineClient:
        """Connect to the engine that listens, or will listen, at `socket_path`. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    return cls(*await asyncio.open_unix_connection(socket_path))
                except (FileNotFoundError, ConnectionRefusedError):
                    await asyncio.sleep(0.02)

    @property
    def open_requests(self) -> int:
        return len(self._streams)

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        """The request's outputs; each item merges what has arrived since the last one.

        Closing the iterator before its end aborts the request. Raises EngineDeadError.
        """
        stream = self._streams[request.request_id] = _Stream()
        finished = False
        try:
            self._send(Submit([request]))
            while not finished:
                if self.dead is None:  # else there is no more news
                    await stream.news.wait()
                stream.news.clear()
                if stream.arrived:
                    output, stream.arrived = merge(stream.arrived), []
                    finished = output.finish_reason is not None
                    yield output
                elif self.dead is not None:
                    raise self.dead
        finally:
            del self._streams[request.request_id]
            if not finished and self.dead is None:
                self.abort(request.request_id)

    def abort(self, request_id: str) -> None:
        """Take a request out of the engine; it leaves before the next step. Unknown ids are ignored."""
        with contextlib.suppress(EngineDeadError):
            self._send(Abort([request_id]))

    async def ping(self, timeout_s: float) -> EngineStats:
        """Wait for the engine loop and all its ranks to answer. Raises TimeoutError, EngineDeadError."""
        number = next(self._numbers)
        pong = self._pongs[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(Ping(number))
            async with asyncio.timeout(timeout_s):
                return await pong
        finally:
            del self._pongs[number]

    async def wait_dead(self) -> EngineDeadError:
        await self._died.wait()
        assert self.dead is not None
        return self.dead

    def fail(self, reason: str, kind: FailureKind = "died") -> None:
        """Declare the engine dead: every open `generate` and `ping` raises EngineDeadError. Only the first counts."""
        if self.dead is not None:
            return
        self.dead = EngineDeadError(reason, kind)
        self._died.set()
        for stream in self._streams.values():
            stream.news.set()
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_exception(self.dead)
        self._writer.close()

    async def shutdown(self) -> None:
        """Ask the loop to stop, and close. Open requests end with EngineDeadError."""
        with contextlib.suppress(EngineDeadError, ConnectionError):
            self._send(Shutdown())
            await self._writer.drain()
        self.fail("the engine was shut down", "stopped")
        self._receiver.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await self._receiver
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    def _send(self, message: Command) -> None:
        if self.dead is not None:
            raise self.dead
        self._writer.write(frame(message))

    async def _receive(self) -> None:
        try:
            while True:
                (length,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
                self._handle(report(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            self.fail("the engine's process ended")

    def _handle(self, received: Report) -> None:
        self.last_message_at = time.monotonic()
        self.stats = received.stats
        match received:
            case Step(outputs, _, timing):
                if timing is not None:
                    self.on_step(timing)
                for output in outputs:
                    stream = self._streams.get(output.request_id)
                    if stream is not None:
                        stream.arrived.append(output)
                        stream.news.set()
            case Pong(number, stats, gpus):
                self.gpus = gpus
                pong = self._pongs.get(number)
                if pong is not None and not pong.done():
                    pong.set_result(stats)
