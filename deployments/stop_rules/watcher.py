"""What watches a completion for a stop rule, and the text that all of them look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from deployments.stop_rules.languages import LANGUAGES, Language
from deployments.stop_rules.scanner import Line, Scanner, State

SCANNED_CHARACTERS = 12_288
"""Of the text before the cursor, what is read to know which brackets and strings are open: about 2 ms."""

_LONG_SEGMENT = 400


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

    before: its line, up to it. tail: the rest of its line. suffix: everything known after it. fresh: the state at the
    start of its line, and here: at the cursor. closers: brackets that the suffix closes and does not open.
    """

    language: Language
    before: str
    suffix: str
    fresh: State
    here: Line
    closers: int

    @classmethod
    def of(cls, language: str, prefix: str, suffix: str, suffix_is_cut: bool = False) -> Place:
        known = LANGUAGES[language]
        scanner = Scanner(known)
        seen = _recent(prefix)
        fresh = scanner.read(seen)
        before = seen[seen.rfind("\n") + 1 :]
        here = scanner.line(before, fresh)
        following = _behind_text(suffix, here)
        state = scanner.read(following, State(within=here.state.within, nesting=here.state.nesting))
        closers = scanner.line(following.rpartition("\n")[2], state).state.unmatched
        if closers and suffix_is_cut:
            closers = max(closers, len(here.state.open))  # the others are probably further down
        return cls(known, before, suffix, fresh, here, closers)

    @property
    def tail(self) -> str:
        return self.suffix.partition("\n")[0]

    @property
    def blank(self) -> bool:
        return not self.before.strip()

    @property
    def indent(self) -> int:
        return indentation(self.before)


class Code:
    """A completion, character by character, and what it is made of.

    text: all of it so far; solid: how many of its characters come before the white space at its end.
    line: the current line, which at first is the cursor's; line_start: where it begins in `text`, below 0 for the
    cursor's. line_text: all of it. before: the line as it was before the newest character. Their `code`
    is complete at a newline only.
    logprobs: of each token so far, whose text may not have come yet.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.text = ""
        self.solid = 0
        self.line = place.here
        self.before = self.line
        self.line_start = -len(place.before)
        self.line_text = place.before
        self.logprobs: list[float] = []
        self._scanner = Scanner(place.language)
        self._segment, self._fresh = place.before, place.fresh

    def push(self, char: str) -> None:
        self.text += char
        if not char.isspace():
            self.solid = len(self.text)
        if char == "\n":
            self._catch_up()
        self.before = self.line
        if char == "\n":
            self._segment, self._fresh = "", self.line.state
            self.line_text, self.line_start = "", len(self.text)
        else:
            self.line_text += char
            if len(self._segment) > _LONG_SEGMENT and not self.line.in_text:
                # A line is read again with each character: a very long one in parts.
                self._segment, self._fresh = "", self.line.state
            self._segment += char
            if char.isalnum() or char in " _.,":
                return  # it opens and closes nothing
        self._catch_up()

    def _catch_up(self) -> None:
        self.line = self._scanner.line(self._segment, self._fresh)

    @property
    def char(self) -> str:
        return self.text[-1]


def indentation(line: str) -> int:
    """Columns before its first word; a tab reaches to the next multiple of 8."""
    blank = line[: len(line) - len(line.lstrip())]
    return len(blank.expandtabs(8))


def _behind_text(suffix: str, here: Line) -> str:
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
