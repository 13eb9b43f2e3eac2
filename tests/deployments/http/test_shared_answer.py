"""Many ask, and one is asked."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.http.shared_answer import SharedAnswer
from tests.support.virtual_time import VirtualTimeLoop

FRESH_S = 1.0


def in_virtual_time(run: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run)


class Asked:
    """Answers its number after `takes_s`, or raises. begun, together: when each was, and how many at once."""

    def __init__(self, takes_s: float, fails: bool = False) -> None:
        self.takes_s = takes_s
        self.fails = fails
        self.begun: list[float] = []
        self.open = self.together = 0

    async def __call__(self) -> int:
        number = len(self.begun)
        self.begun.append(asyncio.get_running_loop().time())
        self.open += 1
        self.together = max(self.together, self.open)
        await asyncio.sleep(self.takes_s)
        self.open -= 1
        if self.fails:
            raise ConnectionError("it is away")
        return number


@given(st.floats(0, 5), st.lists(st.tuples(st.floats(0, 20), st.none() | st.floats(0.01, 5)), min_size=1, max_size=30))
def test_one_at_a_time_and_one_in_a_while_and_each_answer_is_new_enough(
    takes_s: float, comers: list[tuple[float, float | None]]
) -> None:
    """comers: when each comes, and after how long it goes away."""
    asked = Asked(takes_s)
    shared = SharedAnswer(asked, FRESH_S)

    async def one(comes_at: float, patience_s: float | None) -> None:
        await asyncio.sleep(comes_at)
        came_at = asyncio.get_running_loop().time()
        try:
            number = await asyncio.wait_for(shared.get(), patience_s)
        except TimeoutError:
            assert patience_s is not None
            assert patience_s < 2 * takes_s + FRESH_S, "the one that was asked for, and the next"
            return
        begun_at = asked.begun[number]
        assert begun_at > came_at - max(FRESH_S, takes_s) - 1e-9
        assert asyncio.get_running_loop().time() <= max(begun_at + takes_s, came_at) + 1e-9

    async def all_of_them() -> None:
        await asyncio.gather(*(one(*comer) for comer in comers))
        await asyncio.sleep(takes_s)

    in_virtual_time(all_of_them())
    assert (asked.together, asked.open) == (1, 0)
    assert all(after - before >= FRESH_S - 1e-9 for before, after in zip(asked.begun, asked.begun[1:], strict=False))


def test_what_goes_wrong_all_hear_and_the_next_is_asked_anew() -> None:
    asked = Asked(0.1, fails=True)
    shared = SharedAnswer(asked, FRESH_S)

    async def run() -> None:
        heard = await asyncio.gather(*(shared.get() for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in heard] == [ConnectionError] * 3
        await asyncio.sleep(FRESH_S)
        asked.fails = False
        assert await shared.get() == 1

    in_virtual_time(run())


def test_nobody_waits_for_one_that_takes_too_long_who_comes_after_that() -> None:
    """The engine that is asked hangs, and meanwhile there is another."""
    asked = Asked(100)
    shared = SharedAnswer(asked, FRESH_S, patience_s=2.0)

    async def run() -> None:
        first = asyncio.create_task(shared.get())
        await asyncio.sleep(1.5)
        second = asyncio.create_task(shared.get())
        await asyncio.sleep(1.0)
        asked.takes_s = 0.1
        assert await shared.get() == 1
        assert await shared.get() == 1
        assert not first.done()
        assert (await first, await second) == (0, 0)

    in_virtual_time(run())


async def test_it_is_asked_on_nobodys_account() -> None:
    request = contextvars.ContextVar("request", default="none")
    request.set("r-1")

    async def ask() -> str:
        return request.get()

    assert await SharedAnswer(ask, FRESH_S).get() == "none"


def test_nobody_is_left_to_hear_of_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(SharedAnswer(Asked(0.2, fails=True), FRESH_S).get(), 0.1)
        await asyncio.sleep(1)

    in_virtual_time(run())
    assert caplog.text == ""
