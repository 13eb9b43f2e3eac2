"""What an ingress hears of all its answers on one connection to each replica, and what it tells them."""

from __future__ import annotations

import asyncio
import contextvars
import pickle
from collections.abc import AsyncGenerator, Callable

import msgspec
import pytest

from deployments.errors import EngineUnavailableError, OverloadedError
from deployments.http.channels import AGAIN_S, RETRY_AFTER_S, SILENCE_S, Call, Channels, Inbox
from deployments.http.receipts import LAG_REPORTED_S, LAGGING_S, SENT_S, TOGETHER_S, Receipts
from deployments.protocol import Attach, Delta, News, Receipt

pytestmark = pytest.mark.virtual_time


class Connection:
    """To a replica: says `said` one after the other; an exception among them is raised, None is silence."""

    def __init__(self, *said: object) -> None:
        self._said = self._each(said)
        self.cancelled = False

    async def __anext__(self) -> bytes:
        return await anext(self._said)

    def cancel(self) -> None:
        self.cancelled = True

    async def _each(self, said: tuple[object, ...]) -> AsyncGenerator[bytes, None]:
        for one in said:
            if isinstance(one, BaseException):
                raise one
            if one is None:
                await asyncio.Event().wait()
            yield msgspec.msgpack.encode(one)


class Line:
    """Connections that are opened one after the other. attached: for what."""

    def __init__(self, *connections: Connection) -> None:
        self._connections = list(connections)
        self.attached: list[Attach] = []
        self.now = 100.0
        self.channels = Channels(self._attach, lambda: self.now)

    def _attach(self, attach: Attach) -> Call:
        self.attached.append(attach)
        return self._connections.pop(0)


def news(*texts: str, sent_at: float = 100.0, **errors: Exception) -> News:
    deltas = [(text, [Delta(index=0, text=text)]) for text in texts]
    return News(sent_at=sent_at, deltas=deltas, errors=[(id, pickle.dumps(error)) for id, error in errors.items()])


async def failure(inbox: Inbox) -> Exception:
    with pytest.raises((EngineUnavailableError, OverloadedError)) as error:
        await inbox.next()
    return error.value


async def test_each_hears_its_own_and_what_is_nobodys_is_dropped() -> None:
    line = Line(Connection(news("nobody", "a", "b", a=OverloadedError("full"), nobody=OverloadedError("x")), None))
    with line.channels.inbox("a") as a, line.channels.inbox("b") as b:
        line.channels.listen("engine-1")
        line.channels.listen("engine-1")  # it does already
        assert [delta.text for delta in await a.next()] == ["a"]
        assert [delta.text for delta in await b.next()] == ["b"]
        assert isinstance(await failure(a), OverloadedError)
    assert line.attached == [Attach(engine="engine-1", reader=line.channels.reader)]
    assert line.channels._inboxes == {}


async def test_an_inbox_that_another_one_has_replaced_takes_nothing_with_it() -> None:
    line = Line()
    older = line.channels.inbox("a")
    older.__enter__()
    with line.channels.inbox("a") as newer:
        older.__exit__(None, None, None)
        assert line.channels._inboxes == {"a": newer}
    assert line.channels._inboxes == {}


@pytest.mark.parametrize(
    ("end", "seconds", "problem"),
    [
        (None, SILENCE_S, "it has said nothing for 15 s"),
        (ConnectionError("the peer is gone"), 0.0, "the peer is gone"),
        (ConnectionError(), 0.0, "ConnectionError"),
        (asyncio.CancelledError(), 0.0, "CancelledError"),
    ],
)
async def test_a_connection_that_breaks_fails_what_may_be_answered_there(
    end: BaseException | None, seconds: float, problem: str
) -> None:
    """That is what comes from there, and what nobody knows the replica of."""
    connection = Connection(news("here"), end)
    line, loop = Line(connection), asyncio.get_running_loop()
    with (
        line.channels.inbox("here") as here,
        line.channels.inbox("unknown") as unknown,
        line.channels.inbox("elsewhere") as elsewhere,
    ):
        here.engine, elsewhere.engine = "engine-1", "engine-2"
        line.channels.listen("engine-1")
        assert [delta.text for delta in await here.next()] == ["here"]
        began = loop.time()
        for inbox in (here, unknown):
            error = await failure(inbox)
            assert isinstance(error, EngineUnavailableError)
            assert error.message == f"The connection to the engine's replica broke: {problem}."
            assert error.retry_after == RETRY_AFTER_S
        assert loop.time() - began == pytest.approx(seconds)
        assert connection.cancelled == (end is None)
        assert not elsewhere._news.is_set()
        assert line.channels.lag_s("engine-1") is None


async def test_a_replica_that_has_nothing_to_say_breaks_nothing_and_is_asked_again_when_it_has() -> None:
    """At once where it was reached; else after a while, for it may be about to leave."""
    line = Line(Connection(), Connection(news()), Connection(None))
    with line.channels.inbox("a") as inbox:
        line.channels.listen("engine-1")
        await asyncio.sleep(AGAIN_S - 0.1)
        line.channels.listen("engine-1")
        assert len(line.attached) == 1
        await asyncio.sleep(0.2)
        line.channels.listen("engine-1")
        await asyncio.sleep(0.1)
        line.channels.listen("engine-1")
        await asyncio.sleep(0.1)
        assert len(line.attached) == 3
        assert not inbox._news.is_set()


async def test_it_is_nobodys_request_that_listens_and_says_what_has_come() -> None:
    request = contextvars.ContextVar("request", default="none")
    request.set("r-1")
    seen = list[str]()

    def attach(_: Attach) -> Call:
        seen.append(request.get())
        return Connection(None)

    async def send(_: Receipt) -> None:
        seen.append(request.get())

    channels = Channels(attach)
    channels.listen("engine-1")
    Receipts(channels, send).add("engine-1", "r")
    await asyncio.sleep(1)
    assert seen == ["none", "none"]


async def test_by_how_much_messages_come_late_is_told() -> None:
    line = Line(Connection(*(news(sent_at=100.0 - late) for late in (0.5, 0.75, 0.25)), None))
    told = list[tuple[str, float]]()
    line.channels.on_lag = lambda engine, seconds: told.append((engine, seconds))
    assert line.channels.lag_s("engine-1") is None
    line.channels.listen("engine-1")
    await asyncio.sleep(1)
    assert told == [("engine-1", 0.0), ("engine-1", 0.25), ("engine-1", 0.0)]
    assert line.channels.lag_s("engine-1") == 0.0


class Replica:
    """Takes receipts. told: each with when it came."""

    def __init__(self, takes_s: float = 0.0, failure: Exception | None = None) -> None:
        self._takes_s, self._failure = takes_s, failure
        self.told: list[tuple[float, Receipt]] = []
        self.answered = 0

    async def __call__(self, receipt: Receipt) -> None:
        self.told.append((asyncio.get_running_loop().time(), receipt))
        if self._failure is not None:
            raise self._failure
        await asyncio.sleep(self._takes_s)
        self.answered += 1


def late(channels: Channels, seconds: float) -> None:
    channels.lag_s = lambda engine: seconds  # type: ignore[method-assign]


async def test_what_arrives_together_is_told_together() -> None:
    replica, channels = Replica(), Line().channels
    receipts = Receipts(channels, replica)
    late(channels, 0.125)
    receipts.add("engine-1", "a")
    receipts.add("engine-2", "b")
    await asyncio.sleep(TOGETHER_S / 2)
    receipts.add("engine-1", "c")
    await asyncio.sleep(TOGETHER_S)
    receipts.add("engine-1", "d")
    await asyncio.sleep(1)
    assert [at for at, _ in replica.told] == pytest.approx([TOGETHER_S, TOGETHER_S, 2.5 * TOGETHER_S])
    assert [receipt for _, receipt in replica.told] == [
        Receipt(engine=engine, reader=channels.reader, request_ids=ids, lag_s=0.125)
        for engine, ids in (("engine-1", ["a", "c"]), ("engine-2", ["b"]), ("engine-1", ["d"]))
    ]
    assert not receipts._senders


@pytest.mark.parametrize("replica", [Replica(SENT_S + 1), Replica(failure=EngineUnavailableError("It has gone."))])
async def test_a_replica_that_cannot_be_told_holds_nothing(replica: Replica) -> None:
    receipts = Receipts(Line().channels, replica)
    receipts.add("engine-1", "a")
    await asyncio.sleep(TOGETHER_S + SENT_S + 0.5)
    assert (len(replica.told), replica.answered) == (1, 0)
    assert not receipts._senders


def on_lag(replica: Replica) -> tuple[Callable[[str, float], None], Channels]:
    channels = Line().channels
    receipts = Receipts(channels, replica)
    late(channels, 0.5)
    assert channels.on_lag == receipts._report_lag
    return channels.on_lag, channels


async def test_a_replica_hears_now_and_then_by_how_much_its_messages_come_late() -> None:
    replica = Replica()
    saw, channels = on_lag(replica)
    for _ in range(4):
        saw("engine-1", 2 * LAGGING_S)
        saw("engine-1", 2 * LAGGING_S)
        saw("engine-2", LAGGING_S)  # which is no lag
        await asyncio.sleep(LAG_REPORTED_S / 2)
    assert [at for at, _ in replica.told] == pytest.approx([0.0, LAG_REPORTED_S])
    expected = Receipt(engine="engine-1", reader=channels.reader, request_ids=[], lag_s=0.5)
    assert [receipt for _, receipt in replica.told] == [expected] * 2
