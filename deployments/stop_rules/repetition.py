"""The rule `repetition`: text that goes round in circles, as small models write it."""

from __future__ import annotations

from pydantic import Field

from deployments.request_field import RequestField
from deployments.stop_rules.beginning import Beginning
from deployments.stop_rules.rule import StopRule
from deployments.stop_rules.watcher import Code
from deployments.stop_rules.word_runs import WordRuns

_COPIES = 3
_LONGEST_PERIOD_LINES = 8
_LONGEST_PERIOD_CHARACTERS = 24
_LOOKED_AT = 32
_LOOKS_EVERY = 8
_LONGEST_RUN = 40
_LONGEST_RULER = 80
"""Characters after the first `_LOOKED_AT`."""


class Repetition:
    """Ends a text in which the same lines, up to eight of them, come three times in a row, and keeps them once.

    Blank lines do not count, nor lines without a letter. Within a line, up to 24 characters over and over end it when
    they have filled some 72, or 112 where one sign is drawn out, as in `# -----`: words are kept once; of signs, and
    within a word, the first 32 characters or so are.
    """

    def __init__(self) -> None:
        self.safe = 0
        self._lines: list[str] = []
        self._ends = [0]
        """Where the text before each line ends, and before the current one."""
        self._matches = [0] * (_LONGEST_PERIOD_LINES + 1)
        """For each period, how many of the newest lines are what came so many lines before."""
        self._likely: dict[int, Beginning] = {}
        """Periods after which the current line may turn out the same."""
        self._run_from: int | None = None
        self._words = WordRuns(_LONGEST_PERIOD_CHARACTERS)

    def push(self, code: Code) -> int | None:
        self._words.push(code)
        if code.char == "\n":
            end = self._line_ended(code)
            self._run_from = None
            periods = range(1, min(_LONGEST_PERIOD_LINES, len(self._lines)) + 1)
            self._likely = {period: Beginning(self._lines[-period]) for period in periods}
        else:
            end = self._run(code)
            for period, beginning in list(self._likely.items()):
                beginning.push(code.char)
                if not beginning.holds:
                    del self._likely[period]
        if end is None:
            self.safe = self._certain(code)
        return end

    def flush(self, code: Code) -> int | None:
        """Words that still come over and over are kept once; of lines, a third copy may be cut short, and stays."""
        return self._words.unfinished(len(code.text), _COPIES, _LOOKED_AT)

    def _line_ended(self, code: Code) -> int | None:
        line = code.ended_line.rstrip()
        if not line:
            return None
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

    def _run(self, code: Code) -> int | None:
        """Looks at the line now and then; a run begins where it is seen first, as what came before is out already.

        Of words it is not: they are held back from their second copy on.
        """
        length = len(code.text) - max(code.line_start, 0)
        if length < _LOOKED_AT or length % _LOOKS_EVERY:
            return None
        tail = code.text[-_LOOKED_AT:]
        if tail.isspace() or not any(tail.endswith(tail[:-p]) for p in range(1, _LONGEST_PERIOD_CHARACTERS + 1)):
            self._run_from = None
            return None
        if self._run_from is None:
            self._run_from = len(code.text)
        ruler = len(set(tail)) == 1 and not tail[0].isalnum()
        longest = _LONGEST_RULER if ruler else _LONGEST_RUN
        return self._within_line(code) if len(code.text) - self._run_from >= longest else None

    def _certain(self, code: Code) -> int:
        """What comes before lines that may be a second copy, and before a run in the current line."""
        certain = self._within_line(code)
        for period in self._likely:
            certain = min(certain, self._ends[len(self._lines) - self._matches[period]])
        return certain

    def _within_line(self, code: Code) -> int:
        ends = (self._run_from, self._words.once)
        return min((end for end in ends if end is not None), default=len(code.text))


RULE = StopRule(
    name="repetition",
    order=40,
    description="where the same lines come a third time, and keeps them once; or where the same words fill a line, and "
    "keeps them once, or the same few signs",
    word="cut: went in circles",
    field=RequestField(
        "stop_repetition",
        bool | None,
        Field(default=None, description="End where the text goes round in circles. Left out: as with `trim_suffix`."),
    ),
    by_mode=True,
    watch=lambda asked: [Repetition()],
)
