"""The rule `line`: the completion ends with its line."""

from __future__ import annotations

from deployments.stop_rules.mode import ends_with_line
from deployments.stop_rules.rule import StopRule, Trial
from deployments.stop_rules.watcher import Code, Place


class LineEnd:
    """Ends before the first newline that comes after text. Behind a cursor at the end of its line, that is the next
    line's end; where text follows the cursor in its line, any newline ends it.
    """

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


RULE = StopRule(
    name="line",
    order=10,
    description="with the line of the cursor, or with the next one where the cursor stands at the end of its line",
    word="ended with the line",
    of_mode=True,
    watch=lambda asked: [LineEnd(asked.place)] if ends_with_line(asked) else [],
    trial=Trial(mode="line"),
)
