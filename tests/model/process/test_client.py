"""The client of an engine, against one that says what the test wants: what it hears, sends and forgets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from model.process import client as client_module
from model.process.client import EngineClient, EngineDeadError, merge
from model.process.wire import HEADER, Abort, Command, Ping, Pong, Report, Shutdown, Step, Submit, command, frame
from model.request import Output, Request
from model.statistics import EngineStats, GpuMemory, StepTiming
from tests.support.waiting import eventually, settle


class Peer:
    """The engine's end of the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def heard(self) -> Command:
        (length,) = HEADER.unpack(await self.reader.readexactly(HEADER.size))
        return command(await self.reader.readexactly(length))

    def say(self, report: Report) -> None:
        self.writer.write(frame(report))

    def output(self, request_id: str, *token_ids: int, ends: bool = False) -> None:
        self.say(Step([Output(request_id, list(token_ids), finish_reason="stop" if ends else None)], EngineStats()))


@asynccontextmanager
async def connected(directory: Path) -> AsyncIterator[tuple[EngineClient, Peer]]:
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    path = str(directory / "engine")
    server = await asyncio.start_unix_server(lambda r, w: peers.put_nowait(Peer(r, w)), path)
    async with server:
        client = await EngineClient.connect(path, timeout_s=30)
        peer = await peers.get()
        try:
            yield client, peer
        finally:
            await client.shutdown()
            peer.writer.close()


async def next_of(stream: AsyncIterator[Output]) -> Output:
    async with asyncio.timeout(30):
        return await anext(stream)


async def test_a_request_is_sent_once_and_heard_to_its_end(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        stream = client.generate(Request("a", [1, 2]))
        first = asyncio.create_task(next_of(stream))
        assert await peer.heard() == Submit([Request("a", [1, 2])])
        assert client.open_requests == 1
        peer.output("somebody else", 9)
        peer.output("a", 5)
        assert (await first).token_ids == [5]
        peer.output("a", 6)
        peer.output("a", 7, ends=True)
        await settle()
        last = await next_of(stream)
        assert (last.token_ids, last.finish_reason) == ([6, 7], "stop"), "what came meanwhile is one"
        with pytest.raises(StopAsyncIteration):
            await next_of(stream)
        assert client.open_requests == 0
        client.abort("unknown")
        assert await peer.heard() == Abort(["unknown"]), "and nothing before that: the request had ended"


async def test_who_stops_listening_aborts(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        stream = client.generate(Request("a", [1]))
        first = asyncio.create_task(next_of(stream))
        await peer.heard()
        peer.output("a", 5)
        await first
        await stream.aclose()
        assert await peer.heard() == Abort(["a"])
        assert client.open_requests == 0
        peer.output("a", 6, ends=True)  # too late
        pong = asyncio.create_task(client.ping(30))
        assert isinstance(await peer.heard(), Ping)
        peer.say(Pong(0, EngineStats(waiting=3)))
        assert (await pong).waiting == 3


async def test_each_ping_gets_its_own_answer(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        with pytest.raises(TimeoutError):
            await client.ping(0.01)
        late = await peer.heard()
        first, second = asyncio.create_task(client.ping(30)), asyncio.create_task(client.ping(30))
        numbers = [late, await peer.heard(), await peer.heard()]
        assert numbers == [Ping(0), Ping(1), Ping(2)]
        gpu = GpuMemory("one", 1, 2)
        for number in (2, 0, 1):
            peer.say(Pong(number, EngineStats(running=number), [gpu] * number))
        assert [(await one).running for one in (first, second)] == [1, 2]
        assert client.gpus == [gpu], "those of the last answer"
        assert client.stats.running == 1


async def test_every_message_is_a_sign_of_life_and_has_the_newest_statistics(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        timings: list[StepTiming] = []
        timing = StepTiming(1, 2, 0.5, 0.1, 0.2, 0.3)
        peer.say(Step([], EngineStats(running=6), timing))  # nobody has asked for them yet
        await eventually(lambda: client.stats.running == 6)
        client.on_step = timings.append
        client.last_message_at = before = client.last_message_at - 100
        peer.say(Step([], EngineStats(running=7)))
        await eventually(lambda: client.stats.running == 7)
        assert client.last_message_at > before + 99
        assert timings == []
        peer.say(Step([], EngineStats(running=8), timing))
        await eventually(lambda: client.stats.running == 8)
        assert timings == [timing]


async def test_when_the_engine_ends_everybody_hears_of_it(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        streams = [client.generate(Request(name, [1])) for name in "ab"]
        waiting = [asyncio.create_task(next_of(stream)) for stream in streams]
        waiting.append(asyncio.create_task(client.ping(30)))  # type: ignore[arg-type]
        for _ in range(3):
            await peer.heard()
        peer.writer.close()
        dead = await client.wait_dead()
        assert (dead.kind, str(dead)) == ("died", "the engine's process ended")
        assert await asyncio.gather(*waiting, return_exceptions=True) == [dead] * 3
        assert client.open_requests == 0
        client.fail("again", "hung")
        assert client.dead is dead, "the first reason counts"
        client.abort("a")  # nobody is there to hear it
        for late in (next_of(client.generate(Request("c", [1]))), client.ping(30)):
            with pytest.raises(EngineDeadError) as raised:
                await late
            assert raised.value is dead
        assert client.open_requests == 0


async def test_what_came_before_the_end_is_told_before_it(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        stream = client.generate(Request("a", [1]))
        first = asyncio.create_task(next_of(stream))
        await peer.heard()
        peer.output("a", 5)
        await first
        peer.output("a", 6)
        await eventually(lambda: bool(client._streams["a"].arrived))
        client.fail("it hangs", "hung")
        assert (await next_of(stream)).token_ids == [6]
        with pytest.raises(EngineDeadError, match="it hangs") as raised:
            await next_of(stream)
        assert raised.value.kind == "hung"


async def test_an_engine_that_is_asked_to_end_has_not_failed(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        stream = asyncio.create_task(next_of(client.generate(Request("a", [1]))))
        await peer.heard()
        await client.shutdown()
        assert await peer.heard() == Shutdown()
        with pytest.raises(EngineDeadError) as raised:
            await stream
        assert raised.value.kind == "stopped"
        await client.shutdown()  # twice does no harm


async def test_an_engine_that_does_not_listen_yet_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "engine"
    tries, connect = [0], asyncio.open_unix_connection

    async def counted(at: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        tries[0] += 1
        return await connect(at)

    monkeypatch.setattr(client_module.asyncio, "open_unix_connection", counted)
    connecting = asyncio.create_task(EngineClient.connect(str(path), timeout_s=30))
    await eventually(lambda: tries[0] >= 2)
    async with await asyncio.start_unix_server(lambda *_: None, str(path)):
        client = await connecting
        await client.shutdown()
    with pytest.raises(TimeoutError):
        await EngineClient.connect(str(tmp_path / "nothing"), timeout_s=0.01)


def test_one_output_is_itself() -> None:
    output = Output("r", [1])
    assert merge([output]) is output
    assert merge([output, Output("r", [2])]).logprobs is None


def test_an_engine_that_is_gone_has_died_unless_somebody_knows_better() -> None:
    assert EngineDeadError("gone").kind == "died"
    assert EngineDeadError("gone", "hung").kind == "hung"
