"""What watches a completion for a stop rule, and the text that all of them look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from deployments.stop_rules.languages import LANGUAGES, Language
from deployments.stop_rules.scanner import Scanner, Spot, State

SCANNED_CHARACTERS = 12_288
"""Of the text before the cursor, what is read to know which brackets and strings are open: about 5 ms."""

_MOST_UNREAD = 400


class Watcher(Protocol):
    """Sees a completion grow by one character at a time, and says where it ends.

    safe: so many characters of the text it will never cut off.
    """

    safe: int

    def push(self, code: Code) -> int | None:
        """The text has grown by one character. Answers the length to which it is to be cut, if it ends here."""
        ...

    def flush(self, code: Code) -> int | None:
        """The text has ended, for another reason. Answers the length to which it is to be cut, if it is."""
        ...


@dataclass(frozen=True)
class Place:
    """Where the cursor stands.

    before: its line, up to it. tail: the rest of its line. suffix: everything known after it. fresh: the spot at the
    start of its line, and here: at the cursor. closers: brackets that the suffix closes and does not open.
    """

    language: Language
    before: str
    suffix: str
    fresh: Spot
    here: Spot
    closers: int

    @classmethod
    def of(cls, language: str, prefix: str, suffix: str, suffix_is_cut: bool = False) -> Place:
        known = LANGUAGES[language]
        scanner = Scanner(known)
        seen = _recent(prefix)
        start = seen.rfind("\n") + 1
        before = seen[start:]
        fresh = scanner.read(seen[:start])
        here = scanner.read(before, Spot(fresh.state, len(fresh.state.open), before=fresh.before))
        within = Spot(State(within=here.state.within, nesting=here.state.nesting))
        closers = scanner.read(_behind_text(suffix, here), within).state.unmatched
        if closers and suffix_is_cut:
            closers = max(closers, len(here.state.open))  # the others are probably further down
        return cls(known, before, suffix, fresh, here, closers)

    @property
    def tail(self) -> str:
        return self.suffix.partition("\n")[0]

    @property
    def code(self) -> str:
        """`before` without its comment."""
        return self.before[: len(self.before) - self.here.comment]

    @property
    def blank(self) -> bool:
        return not self.before.strip()

    @property
    def indent(self) -> int:
        return indentation(self.before)


class Code:
    """A completion, character by character, and what it is made of. Each costs the same, however long it has become.

    text: all of it so far; solid: how many of its characters come before the white space at its end; breaks: how many
    of those behind them end lines.
    line: where reading the text has led to; before: the same before the newest character. Both are complete at a
    newline only.
    line_start: where the current line begins in `text`, below 0 for the cursor's. line_text: all of the line.
    ended_line: at a newline, the line that it ends.
    logprobs: of each token so far, whose text may not have come yet.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.text = ""
        self.solid = 0
        self.breaks = 0
        self.line = place.here
        self.before = self.line
        self.line_start = -len(place.before)
        self.line_text = place.before
        self.ended_line = ""
        self.logprobs: list[float] = []
        self._scanner = Scanner(place.language)
        self._unread = ""

    def push(self, char: str) -> None:
        self.text = _added(self, "text", char)
        if not char.isspace():
            self.solid, self.breaks = len(self.text), 0
        if char != "\n":
            self.before = self.line
            self.line_text = _added(self, "line_text", char)
            self._unread += char
            if len(self._unread) < _MOST_UNREAD and (char.isalnum() or char in " _.,"):
                return  # it opens and closes nothing
            self._catch_up()
        else:
            self.breaks += 1
            self._catch_up()
            self.before = self.line
            self.ended_line, self.line_text, self.line_start = self.line_text, "", len(self.text)
            self._unread = char
            self._catch_up()

    def _catch_up(self) -> None:
        self.line, self._unread = self._scanner.read(self._unread, self.line), ""

    @property
    def ended_code(self) -> str:
        """`ended_line` without its comment."""
        return self.ended_line[: len(self.ended_line) - self.before.comment]

    @property
    def char(self) -> str:
        return self.text[-1]


def _added(code: Code, name: str, char: str) -> str:
    """Python adds to a string in place where nothing else holds it; an attribute would, and each sum be a copy."""
    text: str = getattr(code, name)
    setattr(code, name, "")
    text += char
    return text


def indentation(line: str) -> int:
    """Columns before its first word; a tab reaches to the next multiple of 8."""
    blank = line[: len(line) - len(line.lstrip())]
    return len(blank.expandtabs(8))


def _behind_text(suffix: str, here: Spot) -> str:
    """The suffix from where it leaves the comment or the string of one line that the cursor is in."""
    if not here.in_text or here.state.within:
        return suffix
    tail = suffix.partition("\n")[0]
    quote = next((at for at, char in enumerate(tail) if char in "\"'`"), len(tail))
    return suffix[len(tail) if here.in_comment else quote + 1 :]


def _recent(prefix: str) -> str:
    """The end of the prefix that is read, if possible from a line that is not indented."""
    if len(prefix) <= SCANNED_CHARACTERS:
        return prefix
    start = len(prefix) - SCANNED_CHARACTERS
    at = prefix.find("\n", start) + 1
    while 0 < at < len(prefix) and (prefix[at].isspace() or prefix[at] in ")]}\"'#/*"):
        at = prefix.find("\n", at) + 1
    return prefix[at if 0 < at < len(prefix) else start :]
