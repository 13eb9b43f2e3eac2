"""Nothing rather than a bad guess."""

from __future__ import annotations

from typing import ClassVar

from deployments.protocol import EndedBy
from deployments.stop_rules.rule import Code

_JUDGED_TOKENS = 16


class Confidence:
    """Ends before the first line whose tokens have a mean log-probability below `least`.

    A line is judged once: when it ends, or after 16 tokens. It is held back until then. A token belongs to the line in
    which its text begins; the tokens of blank lines belong to the line after them.
    """

    name: ClassVar[EndedBy] = "low_confidence"

    def __init__(self, least: float) -> None:
        self.safe = 0
        self._least = least
        self._end = 0
        self._first_token = 0
        self._passed = False

    def push(self, code: Code) -> int | None:
        end = None
        tokens = len(code.logprobs) - self._first_token
        if code.char == "\n":
            if code.text[self._end : -1].strip():
                end = None if self._passed else self._judge(code)
                self._end, self._first_token, self._passed = len(code.text) - 1, len(code.logprobs), False
        elif not self._passed and tokens >= _JUDGED_TOKENS and code.text[self._end :].strip():
            end = self._judge(code)
            self._passed = end is None
        self.safe = len(code.text) if self._passed else self._end
        return end

    def flush(self, code: Code) -> int | None:
        return None if self._passed or not code.text[self._end :].strip() else self._judge(code)

    def _judge(self, code: Code) -> int | None:
        line = code.logprobs[self._first_token :]
        return self._end if line and sum(line) / len(line) < self._least else None
