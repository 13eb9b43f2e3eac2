"""The rule `suffix`: where the completion comes to what already stands after the cursor."""

from __future__ import annotations

from pydantic import Field

from deployments.request_field import RequestField
from deployments.stop_rules.beginning import Beginning
from deployments.stop_rules.rule import Asked, StopRule
from deployments.stop_rules.scanner import OPENER_OF
from deployments.stop_rules.watcher import Code, Place, Watcher

_PROSE = ("other", "markdown")
_LONGEST_OVERLAP = 64
_DISTINCT_CHARACTERS = 6
"""A line with so many letters and digits is no `else:` or `}`: to meet it again is no coincidence."""


class Overlap:
    """How many characters at the end of a growing text begin `wanted`; the most.

    Source: D. E. Knuth, J. H. Morris, V. R. Pratt, "Fast pattern matching in strings", SIAM J. Comput. 6(2), 1977.
    """

    def __init__(self, wanted: str) -> None:
        self.length = 0
        self._wanted = wanted
        self._shorter = [0]
        for at in range(1, len(wanted)):
            self._shorter.append(self._longer(self._shorter[-1], wanted[at]))

    def push(self, char: str) -> int:
        if self.length == len(self._wanted):
            self.length = self._shorter[-1] if self._wanted else 0
        self.length = self._longer(self.length, char)
        return self.length

    def _longer(self, length: int, char: str) -> int:
        while length and self._wanted[length] != char:
            length = self._shorter[length - 1]
        return length + 1 if self._wanted[length : length + 1] == char else 0


class SuffixBracket:
    """Ends before a bracket that closes what the suffix closes too."""

    def __init__(self, place: Place) -> None:
        self.safe = 0
        self._place = place
        self._depth = len(place.here.state.open)
        self._floor = min(place.closers, self._depth)
        self._extra = max(place.closers - self._depth, 0)
        self._suffix_begins_blank = place.suffix[:1].isspace()
        self._overlap = Overlap(place.suffix[:_LONGEST_OVERLAP])

    def push(self, code: Code) -> int | None:
        end = len(code.text) - self._overlap.push(code.char)
        if self._suffix_begins_blank:
            end = min(end, code.solid)
        if code.char in OPENER_OF and self._closes_too_much(code):
            before = len(code.text) - 1
            if self._suffix_begins_blank:
                before = len(code.text[:before].rstrip())
            return min(end, before)
        self.safe = end
        return None

    def _closes_too_much(self, code: Code) -> bool:
        before, after = code.before.state, code.line.state
        if after.unmatched > before.unmatched:
            return bool(self._extra)
        return len(after.open) < min(len(before.open), self._floor)

    def flush(self, code: Code) -> int | None:
        return None


class SuffixOverlap:
    """Ends before text that follows the cursor: the rest of its line, or the lines after it.

    The rest of the line counts at the end of a line of the completion, if the brackets that are open before it are
    those at the cursor: `)` is no repetition behind `f(x`. Of the lines after it, the first one counts if it is
    distinctive, else the first two together. A newline at the end, where the suffix begins with one, is cut too.
    """

    def __init__(self, place: Place) -> None:
        self.safe = 0
        self._place = place
        self._tail = place.tail.rstrip()
        self._overlap = Overlap(self._tail)
        self._blank: list[str] = []
        lines = [line.rstrip() for line in place.suffix.split("\n")[1:]]
        self._lines = [line for line in lines if line.strip()][:2]
        self._begins = [Beginning(line, place.before) for line in self._lines]
        self._first_line = True
        self._open = [place.here.state.open]
        """The brackets that are open after each number of characters."""
        self._end = 0
        """Where the text before the current line ends."""
        self._pending: int | None = None
        """Where it will be cut if the suffix's second line comes next."""

    def push(self, code: Code) -> int | None:
        if code.char == "\n":
            end = self._line_ended(code, code.ended_line)
            if end is not None:
                return end
            self._end, self._first_line = code.solid, False
            self._begins = [Beginning(line) for line in self._lines]
        else:
            for beginning in self._begins:
                beginning.push(code.char)
        self._open.append(code.line.state.open)
        self._blank.append(code.char)
        if not code.char.isspace():
            # White space behind the rest of the line is as uncertain as that: it waits for what follows.
            for char in self._blank:
                self._overlap.push(char)
            self._blank.clear()
        self.safe = self._certain(code)
        return None

    def flush(self, code: Code) -> int | None:
        """The last line may be cut short."""
        if code.solid and code.text.endswith("\n") and self._place.suffix[:1] in ("\n", "\r"):
            return code.solid
        if (end := self._line_ended(code, code.line_text)) is not None:
            return end
        if self._begins_lines() and (self._pending is not None or _distinct(code.line_text)):
            return self._end if self._pending is None else self._pending
        return None

    def _line_ended(self, code: Code, line: str) -> int | None:
        """Whether a line that is whole repeats. line: the cursor's part included."""
        line = line.rstrip()
        if self._tail and code.text.endswith(self._tail, 0, code.solid):
            before = code.solid - len(self._tail)
            if self._open[before] == self._open[0]:
                return before
        if not line or not self._lines:
            return None
        if self._pending is not None and line == self._lines[1]:
            return self._pending
        self._pending = None
        if line == self._lines[0] and (not self._first_line or self._place.blank):
            if _distinct(line) or len(self._lines) == 1:
                return self._end
            self._pending = self._end
        return None

    def _certain(self, code: Code) -> int:
        """What comes before anything that may turn out to be a repetition."""
        certain = code.solid if self._place.suffix[:1].isspace() else len(code.text)
        if self._pending is not None:
            return min(certain, self._pending)
        if self._begins_lines():
            return min(certain, self._end)
        if self._tail:
            certain = min(certain, code.solid - self._overlap.length)
        return certain

    def _begins_lines(self) -> bool:
        """Whether the current line may turn out to be the one that is waited for."""
        wanted = self._begins[self._pending is not None :][:1]
        return any(beginning.holds for beginning in wanted)


def _distinct(line: str) -> bool:
    return sum(char.isalnum() for char in line) >= _DISTINCT_CHARACTERS


def _watch(asked: Asked) -> list[Watcher]:
    if not asked.place.suffix.strip():
        return []
    overlap = SuffixOverlap(asked.place)
    return [overlap] if asked.language in _PROSE else [overlap, SuffixBracket(asked.place)]


RULE = StopRule(
    name="suffix",
    order=30,
    description="where the text comes to what follows the cursor (a bracket that the suffix closes, the rest of the "
    "line, the next lines), and leaves that out",
    word="ended where the suffix begins",
    field=RequestField(
        "trim_suffix",
        bool | None,
        Field(
            default=None,
            description="End where the text begins to repeat what follows the cursor, and leave the repetition out. "
            "Left out: so unless `completion_mode` is `raw`.",
        ),
    ),
    by_mode=True,
    watch=_watch,
)
