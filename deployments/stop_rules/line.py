"""`completion_mode: line`: the completion ends with its line."""

from __future__ import annotations

from typing import ClassVar

from deployments.protocol import EndedBy
from deployments.stop_rules.rule import Code, Place


class LineEnd:
    """Ends before the first newline that comes after text. Behind a cursor at the end of its line, that is the next
    line's end; where text follows the cursor in its line, any newline ends it.
    """

    name: ClassVar[EndedBy] = "line"

    def __init__(self, place: Place) -> None:
        self.safe = 0
        self._goes_on = bool(place.tail.strip())

    def push(self, code: Code) -> int | None:
        self.safe = len(code.text)
        if code.char == "\n" and (code.solid or self._goes_on):
            return len(code.text) - 1
        return None

    def flush(self, code: Code) -> int | None:
        return None
