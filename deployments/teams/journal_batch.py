"""What a journal writes at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from deployments.teams.journal_file import JournalFile
from deployments.teams.journal_lines import Change


class Pending(NamedTuple):
    """A change that somebody waits for. file: where its row is. on_disk: of a row that is opened."""

    file: JournalFile
    change: Change
    written: asyncio.Future[None]
    on_disk: asyncio.Future[None] | None


class Batch:
    """notes: nobody waits for them."""

    def __init__(self, pending: Sequence[Pending], notes: Sequence[tuple[JournalFile, Change]]) -> None:
        self._pending = pending
        self._files: dict[JournalFile, list[Change]] = {}
        # A row is opened before it is noted, and what is closed by now has no note any more.
        for file, change in [*((one.file, one.change) for one in pending), *notes]:
            self._files.setdefault(file, []).append(change)
        self._written: set[JournalFile] = set()

    def write(self) -> None:
        """Raises OSError; `parted` says of what."""
        for file, changes in self._files.items():
            file.write(changes)
            self._written.add(file)

    def parted(self) -> tuple[list[Pending], list[Pending]]:
        """What was written, and what was not."""
        written = [one for one in self._pending if one.file in self._written]
        return written, [one for one in self._pending if one.file not in self._written]
