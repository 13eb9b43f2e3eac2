"""A completion that grows, and is to end before it has repeated too much."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from deployments.attribution.search import LONG, Looked

Look = Callable[[str, str], Awaitable[Looked]]
"""What stands before a text, and the text."""

_KEPT = 4_096
"""Characters before what is new; white space is among them."""


class Watch:
    """Passes text on until a copy has one character less than `LONG`.

    It looks when what has come since it last did could make a copy that long: every 50 characters or so.
    """

    def __init__(self, look: Look, before: str) -> None:
        self._look = look
        self._before = before
        self._unseen = ""
        self._free = 0
        self._written = 0

    async def passed(self, text: str) -> str | None:
        """What may be passed on of more text, where the completion has to end with it; None: all, and it goes on."""
        told = len(self._unseen)
        self._unseen += text
        self._free -= _length(text)
        if self._free >= 0:
            return None
        looked = await self._look(self._before, self._unseen)
        cut = looked.cut(self._written)
        if cut is not None:
            return self._unseen[told:cut]
        self._free = max(0, LONG - 1 - looked.unfinished())
        self._written += _length(self._unseen)
        self._before = (self._before + self._unseen)[-_KEPT:]
        self._unseen = ""
        return None


def _length(text: str) -> int:
    """Without white space."""
    return len("".join(text.split()))
