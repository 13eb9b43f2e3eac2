"""What an answer says of code that it repeats."""

from __future__ import annotations

import msgspec


class Source(msgspec.Struct, frozen=True):
    """Where the code stands: a file by its name in the index, the line where the repeated part begins, from 1.

    licence: an SPDX identifier, or what the file's project says of it; None: not known.
    """

    file: str
    line: int
    licence: str | None = None


class Attribution(msgspec.Struct, frozen=True):
    """A part of a completion that stands in the index, too.

    start, end: in characters of the completion's text. sources: where; of many, the first.
    """

    start: int
    end: int
    sources: list[Source]
