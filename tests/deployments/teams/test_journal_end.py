"""The end of a journal over a disk that fails."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

from deployments.teams.journal import Journal
from tests.support.accounts import FakeLedger, entry


async def test_what_cannot_be_written_is_tried_once_more_and_left_to_the_next(tmp_path: Path) -> None:
    asked: list[str] = []
    broken = False

    def reached(point: str) -> None:
        if broken and point.endswith(".asked"):
            asked.append(point)
            raise OSError(errno.EIO, "disk I/O error")

    journal, following, ledger = Journal(tmp_path, reached=reached), Journal(tmp_path), FakeLedger()
    await journal.open(entry(1)).written
    broken = True
    closed = journal.close(entry(1, completion_tokens=5))
    await asyncio.wait_for(journal.stop(), 60)
    assert closed.cancelled()
    assert asked in (["close.asked"], ["close.asked"] * 2)
    assert await following.adopt() == 1
    await following.drain(ledger.book)
    assert ledger.entries == {"00000001": entry(1, estimated=True)}
    await following.stop()
