"""What a text of code is made of: which brackets are open, and what is a comment or a string.

No parser: what a macro or `${...}` in a string holds is taken for what it looks like. It works by lines, from what is
open at a line's start, so that a line that grows is read again as a whole and nothing has to be taken back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from deployments.stop_rules.languages import Language

OPENER_OF = {")": "(", "]": "[", "}": "{"}
_VALUE_BEFORE = re.compile(r"(?:[\w)\]}.'\"`]|\+\+|--)\s*\Z")
_KEYWORD_BEFORE = re.compile(r"\b(?:return|typeof|case|in|of|do|else|yield|await)\s*\Z")


@dataclass(frozen=True)
class State:
    """What is open at some place.

    open: brackets, outermost first. unmatched: closing brackets so far that closed nothing.
    within: what ends the comment or string of several lines that the place is in; empty in code.
    nesting: how many of these comments are open.
    """

    open: tuple[str, ...] = ()
    unmatched: int = 0
    within: str = ""
    nesting: int = 0


@dataclass(frozen=True)
class Line:
    """A line, or its beginning, and the state at its end.

    code: the line without its comment. in_text: its end is in a comment or a string, of whatever kind.
    in_comment: in a comment that ends with the line.
    """

    state: State
    code: str
    in_text: bool = False
    in_comment: bool = False


class Scanner:
    """Reads lines of one language."""

    def __init__(self, language: Language) -> None:
        self._language = language
        self._pattern, self._kinds = _pattern(language)

    def read(self, text: str, state: State = State()) -> State:
        """The state after whole lines; what follows the last newline is not read."""
        return self.line(text[: text.rfind("\n") + 1], state).state

    def line(self, text: str, state: State) -> Line:
        """What a line without its newline is, given the state at its start; of several lines, the state is right."""
        open, unmatched = list(state.open), state.unmatched
        within, nesting, at = state.within, state.nesting, 0
        while True:
            if within:
                end, nesting = self._end(text, at, within, nesting)
                if end is None:
                    return Line(State(tuple(open), unmatched, within, nesting), text, in_text=True)
                within, at = "", end
            found = self._pattern.search(text, at)
            if found is None:
                return Line(State(tuple(open), unmatched), text)
            at = found.end()
            kind = found.lastgroup
            if kind == "begin":
                what, closer = self._kinds[found.group()]
                if what == "line" and (newline := text.find("\n", at)) >= 0:
                    at = newline
                elif what == "line":
                    return Line(State(tuple(open), unmatched), text[: found.start()], in_text=True, in_comment=True)
                else:
                    within, nesting = closer, 1
            elif kind == "opener":
                open.append(found.group())
            elif kind == "closer":
                opener = OPENER_OF[found.group()]
                unmatched += opener not in open
                while opener in open and open.pop() != opener:
                    pass
            elif kind == "slash" and not self._value_is_due(text[: found.start()]):
                at = found.start() + 1
            elif at == len(text) and not _closed(found.group()):
                return Line(State(tuple(open), unmatched), text, in_text=True)

    def _end(self, text: str, at: int, closer: str, nesting: int) -> tuple[int | None, int]:
        """Where the comment or string of several lines ends, if it does, and how many are open."""
        comment = next((pair for pair in self._language.block_comments if pair[1] == closer), None)
        begin = comment[0] if comment is not None and self._language.nested else None
        while at < len(text):
            if text.startswith(closer, at):
                nesting, at = nesting - 1, at + len(closer)
                if not nesting:
                    return at, 0
            elif begin is not None and text.startswith(begin, at):
                nesting, at = nesting + 1, at + len(begin)
            else:
                at += 2 if text[at] == "\\" and comment is None else 1
        return None, nesting

    @staticmethod
    def _value_is_due(before: str) -> bool:
        """Whether a slash here opens a regular expression rather than divides."""
        return _VALUE_BEFORE.search(before) is None or _KEYWORD_BEFORE.search(before) is not None


def _closed(text: str) -> bool:
    """Whether a string that reaches to the end of the text has its second quote."""
    return len(text) > 1 and text[-1] == text[0] and (len(text) - len(text[:-1].rstrip("\\"))) % 2 == 1


@cache
def _pattern(language: Language) -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
    """What is looked for in code, and what each beginning of a comment or a long string means and ends with."""
    kinds = dict.fromkeys(language.line_comments, ("line", "\n"))
    kinds |= {begin: ("block", end) for begin, end in language.block_comments}
    kinds |= {begin: ("string", end) for begin, end in language.long_strings}
    parts = []
    if kinds:
        parts.append("(?P<begin>" + "|".join(map(re.escape, sorted(kinds, key=len, reverse=True))) + ")")
    for number, quote in enumerate(language.strings):
        if quote == "'" and language.characters:
            parts.append(r"(?P<character>'(?:\\[^\n']{0,8}|[^'\\\n]|\\')(?:'|\Z)|'\Z)")
        else:
            parts.append(rf"(?P<string{number}>{quote}(?:\\.|[^{quote}\\\n])*+(?:{quote}|\\?\Z)?)")
    if language.regexes:
        parts.append(r"(?P<slash>/(?![/*])(?:\\.|\[(?:\\.|[^\]\\\n])*+\]?|[^/\\\[\n])*+(?:/|\\?\Z)?)")
    parts += [r"(?P<opener>[(\[{])", r"(?P<closer>[)\]}])"]
    return re.compile("|".join(parts)), kinds
