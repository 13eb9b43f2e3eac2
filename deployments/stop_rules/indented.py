"""Where a block closes in languages that show it by indentation, with or without a word such as `end`."""

from __future__ import annotations

import re

from deployments.stop_rules.languages import Language
from deployments.stop_rules.watcher import Code, Place, indentation

_WORD = re.compile(r"\w*")


class IndentedBlock:
    """Ends after the last line of the block; lines inside brackets and strings do not count.

    siblings: the block is that of the lines around the cursor; otherwise it is the statement of the cursor's line,
    with the block that it opens. Lines that are not indented end a block of siblings where one of them had a block of
    its own, or a blank line comes first. A word that closes the block belongs to it, unless the suffix has it.
    """

    def __init__(self, place: Place, siblings: bool) -> None:
        self.safe = 0
        self._place = place
        self._siblings = siblings
        self._depth = len(place.fresh.state.open)
        self._base = place.indent
        self._opened = False
        self._had_block = False
        self._closing = False
        self._judging = False
        self._end = 0
        self._word_at: int | None = None

    def push(self, code: Code) -> int | None:
        end = None
        if code.char == "\n":
            end = self._newline(code)
        elif self._word_at is not None:
            if not (code.char.isalnum() or code.char == "_"):
                end = self._word(code.text[self._word_at : -1])
        elif not code.char.isspace() and (self._judging or self._end == 0):
            end = self._first(code)
        if self._word_at is None:
            self._end = code.solid
            self.safe = code.solid
        return end

    def flush(self, code: Code) -> int | None:
        return None if self._word_at is None else self._word(code.text[self._word_at : code.solid])

    def _newline(self, code: Code) -> int | None:
        """The line before has ended; is it a line of its own, and the last one?"""
        line, text = code.before, code.ended_code
        if self._word_at is not None:
            if (end := self._word(code.text[self._word_at : -1])) is not None:
                return end
            self._end = code.solid
        if line.state.within or len(line.state.open) > self._depth or text.endswith("\\"):
            self._judging = False
            return None
        if self._closing:
            return code.solid
        self._judging = True
        opens = _opens(self._place.language, text)
        if not self._siblings and not self._opened and (code.solid or opens):
            if not opens:
                return code.solid
            self._opened = True
        return None

    def _first(self, code: Code) -> int | None:
        """The first character of a line, or of the completion."""
        self._judging = False
        on_cursor_line = code.line_start < 0
        if on_cursor_line and not self._place.blank:
            return None
        indent = indentation(code.line_text)
        if self._end == 0 and not self._opened:  # the first line
            if not on_cursor_line and indent < self._place.indent:
                return 0
            self._base = indent if self._siblings or not on_cursor_line else self._base
            return None
        if not self._ends(code, indent):
            self._had_block = self._had_block or indent > self._base
            return None
        language = self._place.language
        words = language.continuations if self._siblings or language.closers else ()
        if indent == self._base and (words or language.closers):
            self._word_at = len(code.text) - 1
            return None
        return self._end

    def _ends(self, code: Code, indent: int) -> bool:
        if not self._siblings:
            return self._opened and indent <= self._base
        if indent or self._base:
            return indent < self._base
        return self._had_block or code.text[self._end :].count("\n") > 1

    def _word(self, word: str) -> int | None:
        """The first word of a line that would end the block: it may close the block, or go on with it."""
        self._word_at = None
        language = self._place.language
        if word in language.continuations:
            return None
        if word in language.closers:
            upcoming = next((line for line in self._place.suffix.split("\n") if line.strip()), "")
            first = _WORD.match(upcoming.strip())
            if first is None or first.group() != word or indentation(upcoming) != self._base:
                self._closing = not self._siblings or self._base == 0
                return None
        return self._end


def _opens(language: Language, code: str) -> bool:
    """Whether a line opens a block."""
    code = code.strip()
    if not language.openers:
        return code.endswith(":")
    first = code.removesuffix(";").split(" ")
    starts = any(code == word or code.startswith((word + " ", word + "(")) for word in language.openers)
    closes = first[-1] in language.closers
    return (starts or code.endswith((" do", " then", "{", "|"))) and not closes
