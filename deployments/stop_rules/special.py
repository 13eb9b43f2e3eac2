"""The rule `special_token`: special tokens that a model spells out in letters, or draws where a request lets it."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.stop_rules.rule import StopRule
from deployments.stop_rules.watcher import Code
from model.text.stop_strings import StopStrings


class SpecialText:
    """Ends before the name of a special token."""

    def __init__(self, names: Sequence[str]) -> None:
        self.safe = 0
        self._names = StopStrings(names)
        self._first = {name[0] for name in names}
        self._passed_by = 0

    def push(self, code: Code) -> int | None:
        if self.safe == len(code.text) - 1 and code.char not in self._first:
            self._passed_by += 1
            self.safe += 1
            return None
        matched = self._names.push(code.char).matched
        self.safe = self._passed_by + self._names.shown
        return None if matched is None else self.safe

    def flush(self, code: Code) -> int | None:
        return None


RULE = StopRule(
    name="special_token",
    order=50,
    description="where the name of a special token begins (fill in the middle, metadata): the token, where it may be "
    "drawn, or its letters",
    word="cut: special token",
    by_mode=True,
    watch=lambda asked: [SpecialText(asked.special)] if asked.special else [],
)
