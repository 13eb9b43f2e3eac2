"""What one ingress is sent in common: when a message leaves, what is in it, and when there are no more."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator

import pytest

from deployments.errors import OverloadedError
from deployments.protocol import Delta, News
from deployments.replica.outbox import HEARTBEAT_S, LONGEST_INTERVAL_S, REPORT_LIFE_S, Outbox, comes

pytestmark = pytest.mark.virtual_time


class Listener:
    """An ingress that has attached: what it heard, and when."""

    def __init__(self, outbox: Outbox) -> None:
        self._stream = outbox.messages()
        self.messages: list[News] = []
        self.times: list[float] = []
        self.task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            async for message in self._stream:
                self.messages.append(message)
                self.times.append(now())
        finally:
            await self._stream.aclose()

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    @property
    def texts(self) -> list[dict[str, str]]:
        """By message, by answer."""
        return [{id: "".join(delta.text for delta in deltas) for id, deltas in each.deltas} for each in self.messages]


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
async def outbox() -> Outbox:
    return Outbox(now)


@pytest.fixture
async def listener(outbox: Outbox) -> AsyncIterator[Listener]:
    listener = Listener(outbox)
    await asyncio.sleep(0)
    yield listener
    await listener.leave()


def told(text: str, index: int = 0) -> list[Delta]:
    return [Delta(index=index, text=text)]


async def test_silence_is_broken_while_an_answer_is_under_way_and_ends_when_none_is(
    outbox: Outbox, listener: Listener
) -> None:
    outbox.begin("a", lambda: None)
    began = now()
    await asyncio.sleep(2.5 * HEARTBEAT_S)
    assert [at - began for at in listener.times] == pytest.approx([HEARTBEAT_S, 2 * HEARTBEAT_S])
    assert [(message.deltas, message.errors) for message in listener.messages] == [([], []), ([], [])]
    outbox.put("a", told("x"))
    outbox.end("a")
    await asyncio.sleep(HEARTBEAT_S * 0.9)
    assert listener.texts[2:] == [{"a": "x"}]
    assert (outbox.attached, listener.task.done()) == (True, False)
    await asyncio.sleep(HEARTBEAT_S * 0.2)
    assert (outbox.attached, listener.task.done()) == (False, True)


async def test_an_error_comes_once_and_behind_what_was_put_before(outbox: Outbox, listener: Listener) -> None:
    outbox.put("a", told("x"))
    outbox.put("b", [*told("0"), *told("1", 1)])
    outbox.put("a", told("y"))
    outbox.fail("a", OverloadedError("full"))
    await asyncio.sleep(0.01)
    (message,) = listener.messages
    assert listener.texts == [{"a": "xy", "b": "01"}]
    assert [(delta.index, delta.text) for delta in dict(message.deltas)["b"]] == [(0, "0"), (1, "1")]
    ((id, error),) = message.errors
    assert (id, str(pickle.loads(error))) == ("a", "full")
    outbox.fail("b", OverloadedError("full"))
    await asyncio.sleep(0.01)
    assert [(each.deltas, [id for id, _ in each.errors]) for each in listener.messages[1:]] == [([], ["b"])]


@pytest.mark.parametrize(
    ("lag", "ago", "interval"),
    [
        (None, 0.1, 0.0),
        (0.02, 0.1, 0.01),
        (0.02, REPORT_LIFE_S - 0.1, 0.01),
        (0.02, REPORT_LIFE_S + 0.1, 0.0),
        (2 * LONGEST_INTERVAL_S, 0.1, LONGEST_INTERVAL_S),
        (9.0, 0.1, LONGEST_INTERVAL_S),
    ],
)
async def test_messages_are_half_a_lag_apart_until_it_may_have_caught_up(
    outbox: Outbox, listener: Listener, lag: float | None, ago: float, interval: float
) -> None:
    outbox.begin("a", lambda: None)
    if lag is not None:
        outbox.lags(lag)
    await asyncio.sleep(ago)
    assert outbox.interval_s == interval
    listener.messages, listener.times = [], []  # without signs of life
    for text in ("1", "2", "3"):
        outbox.put("a", told(text))
        await asyncio.sleep(0.0001)
    await asyncio.sleep(0.2)
    assert listener.texts == ([{"a": "1"}, {"a": "23"}] if interval else [{"a": "1"}, {"a": "2"}, {"a": "3"}])
    assert listener.times[1] - listener.times[0] == pytest.approx(max(interval, 0.0001))


async def test_what_was_under_way_to_one_who_has_gone_is_lost(outbox: Outbox, listener: Listener) -> None:
    lost: list[str] = []
    for id in ("a", "b", "c"):
        outbox.begin(id, lambda id=id: lost.append(id))  # type: ignore[misc]
    outbox.end("b")
    await listener.leave()
    assert (lost, outbox.attached) == (["a", "c"], False)
    outbox.put("a", told("nobody hears it"))
    outbox.fail("a", OverloadedError("full"))
    again = Listener(outbox)
    outbox.begin("d", lambda: None)
    await asyncio.sleep(HEARTBEAT_S + 0.1)
    assert [(message.deltas, message.errors) for message in again.messages] == [([], [])], "a sign of life alone"
    await again.leave()
    assert lost == ["a", "c"]


async def test_one_who_comes_again_is_the_one_who_listens(outbox: Outbox, listener: Listener) -> None:
    """Its first connection may be dead, which nobody has noticed yet."""
    lost: list[str] = []
    outbox.begin("a", lambda: lost.append("a"))
    again = Listener(outbox)
    await asyncio.sleep(0)
    assert lost == ["a"]
    outbox.begin("b", lambda: lost.append("b"))
    for text in ("x", "y"):
        outbox.put("b", told(text))
        await asyncio.sleep(0.01)
    await asyncio.sleep(HEARTBEAT_S)
    assert listener.task.done()
    assert listener.messages == []
    assert again.texts == [{"b": "x"}, {"b": "y"}, {}]
    assert (outbox.attached, lost) == (True, ["a"]), "the end of the first one is not the end"
    await again.leave()


async def test_what_is_set_has_come_at_once_and_what_is_not_in_time_has_not() -> None:
    event = asyncio.Event()
    began = now()
    assert not await comes(event, 1.5)
    assert now() - began == pytest.approx(1.5)
    asyncio.get_running_loop().call_later(0.5, event.set)
    assert await comes(event, 1.5)
    assert await comes(event, 0.0)
    assert now() - began == pytest.approx(2.0)
