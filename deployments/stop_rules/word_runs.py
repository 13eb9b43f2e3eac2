"""Words that come over and over within a line."""

from __future__ import annotations

from collections import deque

from deployments.stop_rules.watcher import Code


class WordRuns:
    """Of the current line, the runs of equal words that are under way: at most one of each period.

    A run begins where a word begins, and lasts while each character is the one a period before. It costs the same for
    each character, however long the line is.
    """

    def __init__(self, longest_period: int) -> None:
        self._longest_period = longest_period
        self._second: dict[int, int] = {}
        """By period, where in the text the second copy begins."""
        self._starts: deque[int] = deque()
        """Of the last words, as far back as a period reaches."""

    def push(self, code: Code) -> None:
        if code.char == "\n":
            self._second.clear()
            self._starts.clear()
            return
        text, at = code.text, len(code.text) - 1
        for period in [p for p in self._second if text[at] != text[at - p]]:
            del self._second[period]
        if code.char.isalnum() and not code.line_text[-2:-1].isalnum():
            self._word(text, at)

    def _word(self, text: str, at: int) -> None:
        while self._starts and at - self._starts[0] > self._longest_period:
            self._starts.popleft()
        for start in self._starts:
            if text[start] == text[at]:
                self._second.setdefault(at - start, at)
        self._starts.append(at)

    @property
    def once(self) -> int | None:
        """Where the text would end with one copy of what comes over and over; None where nothing does."""
        return min(self._second.values(), default=None)

    def unfinished(self, length: int, copies: int, least: int) -> int | None:
        """The same of runs that have come to the end of the text, of so many copies and characters at least."""
        filled = {period: length - second + period for period, second in self._second.items()}
        ends = [self._second[period] for period, count in filled.items() if count >= max(copies * period, least)]
        return min(ends, default=None)
