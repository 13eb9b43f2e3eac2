"""What a text of code is made of: which brackets are open, and what is a comment or a string.

No parser: what a macro or `${...}` in a string holds is taken for what it looks like. A text that grows is never read
again from its start: what more text cannot change is settled, and a `Spot` holds the few characters behind that.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from deployments.stop_rules.languages import Language

OPENER_OF = {")": "(", "]": "[", "}": "{"}
_KIND = {bracket: kind for kind, pair in enumerate(("()", "[]", "{}")) for bracket in pair}
_VALUE_BEFORE = re.compile(r"(?:[\w)\]}.'\"`]|\+\+|--)\s*\Z")
_KEYWORD_BEFORE = re.compile(r"\b(?:return|typeof|case|in|of|do|else|yield|await)\s*\Z")
_LOOKED_BACK = 8
"""Characters before a slash that tell what it is: a keyword, and what comes before that."""


class Brackets:
    """The brackets that are open, as a list that grows at its inner end and shares the rest: one step a bracket.

    Equal where the same brackets are open, wherever they were opened.
    """

    __slots__ = ("_after", "_depth", "_hash")

    def __init__(self, depth: int = 0, value: int = 0, after: tuple[Brackets | None, ...] = (None, None, None)) -> None:
        self._depth = depth
        self._hash = value
        self._after = after
        """What is open once the innermost bracket of each kind is closed; None where there is none."""

    def opened(self, bracket: str) -> Brackets:
        kind = _KIND[bracket]
        first, second, third = self._after
        after = ((self, second, third), (first, self, third), (first, second, self))[kind]
        return Brackets(self._depth + 1, hash((self._hash, kind)), after)

    def closed(self, bracket: str) -> Brackets | None:
        """What is left, without the other kinds that were open in it; None where it closes nothing."""
        return self._after[_KIND[bracket]]

    def __len__(self) -> int:
        return self._depth

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Brackets) and (self._depth, self._hash) == (other._depth, other._hash)

    def __hash__(self) -> int:
        return self._hash


_NONE = Brackets()


class State(NamedTuple):
    """What is open at some place.

    open: brackets. unmatched: closing brackets so far that closed nothing.
    within: what ends the comment or string of several lines that the place is in; empty in code.
    nesting: how many of these comments are open.
    """

    open: Brackets = _NONE
    unmatched: int = 0
    within: str = ""
    nesting: int = 0


_NOTHING = State()


class Spot(NamedTuple):
    """A place in a text, and all that reading on takes.

    state: here. least: the fewest brackets that were open since reading began, at a closing one.
    quote: what ends the string, regular expression or class in one that the place is in, if it ends with its line.
    comment: how many characters of a comment that ends with its line come before.
    rest: characters before the place that more text may turn into something else; settled: the spot before them.
    before: the end of what comes before the spot.
    """

    state: State = _NOTHING
    least: int = 0
    quote: str = ""
    comment: int = 0
    before: str = ""
    rest: str = ""
    settled: Spot | None = None

    @property
    def in_text(self) -> bool:
        """In a comment or a string, of whatever kind."""
        return bool(self.state.within or self.quote or self.comment)

    @property
    def in_comment(self) -> bool:
        """In a comment that ends with the line."""
        return self.comment > 0


START = Spot()


class Scanner:
    """Reads text of one language."""

    def __init__(self, language: Language) -> None:
        self._language = language
        self._pattern, self._kinds = _pattern(language)
        self._longest = max(map(len, self._kinds), default=1)

    def read(self, text: str, spot: Spot = START) -> Spot:
        """Where `text` leads from `spot`, in time linear in the text, whatever the pieces in which it comes."""
        text, spot = spot.rest + text, spot.settled or spot
        return _Reading(text, spot, self._longest).run(self)

    def _enclosed(self, closer: str) -> tuple[re.Pattern[str], int]:
        comment = next((pair for pair in self._language.block_comments if pair[1] == closer), None)
        begin = comment[0] if comment is not None and self._language.nested else ""
        return _within(closer, begin, escapes=comment is None), max(len(closer), len(begin))


class _Reading:
    """One piece of text, read once."""

    def __init__(self, text: str, spot: Spot, longest: int) -> None:
        self._text = text
        self._from = spot
        self._open, self._unmatched, self._within, self._nesting = spot.state
        self._least = spot.least
        self._quote = spot.quote
        self._comment = spot.comment
        self._at = 0
        self._settled_until = len(text) - longest
        """What begins in code behind this may become another thing that begins alike."""
        self._settled: Spot | None = None

    def run(self, scanner: Scanner) -> Spot:
        more = True
        while more:
            if self._within:
                more = self._long_text(scanner)
            elif self._quote:
                more = self._short_text()
            elif self._comment:
                more = self._line_comment()
            else:
                more = self._code(scanner)
        here = self._spot(len(self._text))
        settled = self._settled or here
        return here if settled is here else here._replace(rest=self._text[self._settled_at :], settled=settled)

    def _code(self, scanner: Scanner) -> bool:
        text = self._text
        for found in scanner._pattern.finditer(text, self._at):
            start, self._at = found.span()
            kind, what = found.lastgroup, found.group()
            if start > self._settled_until or (kind == "character" and self._at == len(text)):
                self._settle(start)
            if kind == "opener":
                self._open = self._open.opened(what)
            elif kind == "closer":
                left = self._open.closed(what)
                if left is None:
                    self._unmatched += 1
                else:
                    self._open = left
                self._least = min(self._least, len(self._open))
            elif kind == "begin":
                use, closer = scanner._kinds[what]
                if use == "line":
                    self._comment = len(what)
                else:
                    self._within, self._nesting = closer, 1
                return True
            elif kind == "string" or (kind == "slash" and self._value_is_due(start)):
                self._quote = what
                return True
            elif kind == "character" and self._at == len(text) and not _closed(what):
                self._quote = what[0]
                return False
        self._settle(max(self._at, self._settled_until + 1, 0))
        return False

    def _long_text(self, scanner: Scanner) -> bool:
        pattern, longest = scanner._enclosed(self._within)
        for found in pattern.finditer(self._text, self._at):
            if found.lastgroup == "escape" and found.end() - found.start() == 1:  # the last character
                self._settle(found.start())
                return False
            self._at = found.end()
            if found.lastgroup == "end":
                self._nesting -= 1
            elif found.lastgroup == "begin":
                self._nesting += 1
            if not self._nesting:
                self._within = ""
                return True
        self._settle(max(self._at, len(self._text) - longest + 1))
        return False

    def _short_text(self) -> bool:
        found = _SHORT_TEXTS[self._quote].match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        if found.lastgroup == "inner":
            self._quote = "["
        elif found.lastgroup == "closed":
            self._quote = "/" if self._quote == "[" else ""
        elif self._at == len(self._text):
            self._settle(self._at - (found.lastgroup == "escape"))
            return False
        else:
            self._quote = ""  # it ends with its line
        return True

    def _line_comment(self) -> bool:
        end = self._text.find("\n", self._at)
        if end < 0:
            self._comment += len(self._text) - self._at
            self._at = len(self._text)
            return False
        self._comment, self._at = 0, end
        return True

    def _value_is_due(self, at: int) -> bool:
        """Whether a slash here opens a regular expression rather than divides."""
        before = self._before(at)
        return _VALUE_BEFORE.search(before) is None or _KEYWORD_BEFORE.search(before) is not None

    def _before(self, at: int) -> str:
        """The end of what comes before, with one space for any white space behind it."""
        end = at
        while end and self._text[end - 1].isspace():
            end -= 1
        before = self._text[max(end - _LOOKED_BACK, 0) : end]
        if end < _LOOKED_BACK:
            before = (self._from.before + before)[-_LOOKED_BACK - 1 :]
        return before + " " if end < at and not before.endswith(" ") else before

    def _settle(self, at: int) -> None:
        """All before this place will stay what it is."""
        if self._settled is None:
            self._settled, self._settled_at = self._spot(at), at

    def _spot(self, at: int) -> Spot:
        state = State(self._open, self._unmatched, self._within, self._nesting)
        return Spot(state, self._least, self._quote, self._comment, self._before(at))


def _closed(text: str) -> bool:
    """Whether a character that reaches to the end of the text has its second quote."""
    return len(text) > 1 and text[-1] == text[0] and (len(text) - len(text[:-1].rstrip("\\"))) % 2 == 1


def _short_text(closer: str, opener: str = "") -> re.Pattern[str]:
    """The rest of what ends with its line, as far as it is there."""
    inner = "|(?P<inner>" + re.escape(opener) + ")" if opener else ""
    plain = rf"[^{re.escape(closer + opener)}\\\n]"
    return re.compile(rf"(?:\\.|{plain})*+(?:(?P<closed>{re.escape(closer)}){inner}|(?P<escape>\\\Z))?")


_SHORT_TEXTS = {
    **{quote: _short_text(quote) for quote in "\"'"},
    "/": _short_text("/", "["),
    "[": _short_text("]"),
}


@cache
def _within(closer: str, begin: str, escapes: bool) -> re.Pattern[str]:
    """What matters in a comment or a string of several lines."""
    parts = [rf"(?P<end>{re.escape(closer)})"]
    parts += [rf"(?P<begin>{re.escape(begin)})"] if begin else []
    parts += [r"(?P<escape>\\[\s\S]?)"] if escapes else []
    return re.compile("|".join(parts))


@cache
def _pattern(language: Language) -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
    """What is looked for in code, and what each beginning of a comment or a long string means and ends with."""
    kinds = dict.fromkeys(language.line_comments, ("line", "\n"))
    kinds |= {begin: ("block", end) for begin, end in language.block_comments}
    kinds |= {begin: ("string", end) for begin, end in language.long_strings}
    parts = []
    if kinds:
        parts.append("(?P<begin>" + "|".join(map(re.escape, sorted(kinds, key=len, reverse=True))) + ")")
    quotes = [quote for quote in language.strings if not (quote == "'" and language.characters)]
    if quotes:
        parts.append(f"(?P<string>[{''.join(quotes)}])")
    if len(quotes) < len(language.strings):
        parts.append(r"(?P<character>'(?:\\[^\n']{0,8}|[^'\\\n]|\\')(?:'|\Z)|'\Z)")
    if language.regexes:
        parts.append(r"(?P<slash>/(?![/*]))")
    parts += [r"(?P<opener>[(\[{])", r"(?P<closer>[)\]}])"]
    return re.compile("|".join(parts)), kinds
