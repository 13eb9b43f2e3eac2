"""Special tokens that a model spells out in letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from deployments.protocol import EndedBy
from deployments.stop_rules.rule import Code
from model.stop_strings import StopStrings


class SpecialText:
    """Ends before the name of a special token. The tokens themselves end generation in the engine."""

    name: ClassVar[EndedBy] = "special_token"

    def __init__(self, names: Sequence[str]) -> None:
        self.safe = 0
        self._names = StopStrings(names)

    def push(self, code: Code) -> int | None:
        matched = self._names.push(code.char).matched
        self.safe = self._names.shown
        return None if matched is None else self.safe

    def flush(self, code: Code) -> int | None:
        return None
