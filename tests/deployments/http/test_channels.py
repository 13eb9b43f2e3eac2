"""What waits for the news of one answer."""

from __future__ import annotations

import asyncio

import pytest

from deployments.errors import EngineUnavailableError, InternalError
from deployments.http.channels import Inbox
from deployments.protocol import Delta
from tests.support.waiting import settle


async def test_news_come_once_and_whoever_wants_more_waits() -> None:
    inbox = Inbox()
    for text in ("a", "b"):
        waiting = asyncio.create_task(inbox.next())
        await settle()
        assert not waiting.done()
        inbox.put([Delta(index=0, text=text)])
        assert [delta.text for delta in await waiting] == [text]


async def test_what_came_together_is_one_piece_of_each_completion() -> None:
    inbox = Inbox()
    inbox.put([Delta(index=1, text="x"), Delta(index=0, text="a")])
    inbox.put([Delta(index=0, text="b")])
    assert [(delta.index, delta.text) for delta in await inbox.next()] == [(0, "ab"), (1, "x")]


async def test_a_failure_comes_behind_the_news_and_only_the_first_counts() -> None:
    inbox = Inbox()
    inbox.put([Delta(index=0, text="a")])
    inbox.fail(EngineUnavailableError("It died."))
    inbox.fail(InternalError("Something else."))
    assert [delta.text for delta in await inbox.next()] == ["a"]
    for _ in range(2):
        with pytest.raises(EngineUnavailableError, match="It died"):
            await inbox.next()
