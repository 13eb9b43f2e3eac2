"""Text that goes round in circles, as small models write it."""

from __future__ import annotations

from typing import ClassVar

from deployments.protocol import EndedBy
from deployments.stop_rules.rule import Code, Place

_COPIES = 3
_LONGEST_PERIOD_LINES = 8
_LONGEST_PERIOD_CHARACTERS = 24
_LONGEST_RUN = 64
_LONGEST_RULER = 120
_KEPT_OF_A_RUN = 24


class Repetition:
    """Ends a text in which the same lines, up to eight of them, come three times in a row, and keeps them once.

    Blank lines do not count, nor lines without a letter. Within a line, the same characters over and over end it
    when they have filled `_LONGEST_RUN`, or `_LONGEST_RULER` where one sign is drawn out, as in `# -----`.
    """

    name: ClassVar[EndedBy] = "repetition"

    def __init__(self, place: Place) -> None:
        self.safe = 0
        self._line = place.before
        self._lines: list[str] = []
        self._ends = [0]
        """Where the text before each line ends, and before the current one."""
        self._matches = [0] * (_LONGEST_PERIOD_LINES + 1)
        """For each period, how many of the newest lines are what came so many lines before."""
        self._runs = [0] * (_LONGEST_PERIOD_CHARACTERS + 1)
        """The same for characters of the current line."""

    def push(self, code: Code) -> int | None:
        if code.char == "\n":
            self._runs = [0] * len(self._runs)
            end = self._line_ended(self._line.rstrip(), code)
        else:
            self._line = code.line_text
            end = self._character(code)
        if end is None:
            self.safe = self._certain(code)
        return end

    def flush(self, code: Code) -> int | None:
        """A third copy may be cut short; there is none to see in less than a line of it."""
        return None

    def _line_ended(self, line: str, code: Code) -> int | None:
        self._line = ""
        if line:
            self._lines.append(line)
            self._ends.append(code.solid)
            for period in range(1, _LONGEST_PERIOD_LINES + 1):
                same = len(self._lines) > period and self._lines[-1 - period] == line
                self._matches[period] = self._matches[period] + 1 if same else 0
                if self._matches[period] >= (_COPIES - 1) * period and self._has_letters(period):
                    return self._ends[len(self._lines) - self._matches[period]]
        return None

    def _has_letters(self, period: int) -> bool:
        return any(char.isalpha() for line in self._lines[-period:] for char in line)

    def _character(self, code: Code) -> int | None:
        text, line_start = code.text, max(code.line_start, 0)
        for period in range(1, _LONGEST_PERIOD_CHARACTERS + 1):
            at = len(text) - 1 - period
            same = at >= line_start and text[at] == text[-1]
            self._runs[period] = run = self._runs[period] + 1 if same else 0
            if run >= _LONGEST_RUN and not text[-period:].isspace():
                ruler = len(set(text[-period:])) == 1 and not text[-1].isalnum()
                if run >= (_LONGEST_RULER if ruler else _LONGEST_RUN):
                    return len(text) - run + _KEPT_OF_A_RUN - 1
        return None

    def _certain(self, code: Code) -> int:
        """What comes before lines that may be a second copy, and before a long run in the current line."""
        certain = len(code.text)
        for period in range(1, min(_LONGEST_PERIOD_LINES, len(self._lines)) + 1):
            if self._lines[-period].startswith(self._line.rstrip()):
                certain = min(certain, self._ends[len(self._lines) - self._matches[period]])
        for run in self._runs:
            if run >= _KEPT_OF_A_RUN:
                certain = min(certain, len(code.text) - run + _KEPT_OF_A_RUN - 1)
        return certain
