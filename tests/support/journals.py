"""Journals of several processes, in one directory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from deployments.teams.journal import Journal

Begin = Callable[..., Awaitable[Journal]]


@pytest.fixture
async def begin(tmp_path: Path) -> AsyncIterator[Begin]:
    journals: list[Journal] = []

    async def begin(**options: object) -> Journal:
        journal = Journal(tmp_path / "journal", **options)  # type: ignore[arg-type]
        journals.append(journal)
        return journal

    yield begin
    for journal in journals:
        await journal.stop()
