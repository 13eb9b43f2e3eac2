"""The rule `low_confidence`: nothing rather than a bad guess."""

from __future__ import annotations

from pydantic import Field

from deployments.request_field import RequestField
from deployments.stop_rules.rule import StopRule, Trial
from deployments.stop_rules.watcher import Code

_JUDGED_TOKENS = 16


class Confidence:
    """Ends before the first line whose tokens have a mean log-probability below `least`.

    A line is judged once: when it ends, or after 16 tokens. It is held back until then. A token belongs to the line in
    which its text begins; the tokens of blank lines belong to the line after them.
    """

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
            if code.solid > self._end:
                end = None if self._passed else self._judge(code)
                self._end, self._first_token, self._passed = len(code.text) - 1, len(code.logprobs), False
        elif not self._passed and tokens >= _JUDGED_TOKENS and code.solid > self._end:
            end = self._judge(code)
            self._passed = end is None
        self.safe = len(code.text) if self._passed else self._end
        return end

    def flush(self, code: Code) -> int | None:
        return None if self._passed or code.solid <= self._end else self._judge(code)

    def _judge(self, code: Code) -> int | None:
        line = code.logprobs[self._first_token :]
        return self._end if line and sum(line) / len(line) < self._least else None


RULE = StopRule(
    name="low_confidence",
    order=60,
    description="before the first line whose tokens have a lower mean log-probability (of a line, its first 16 tokens) "
    "than the field says. Where that is the first line, the text is empty. Lines arrive whole then",
    word="cut: too unsure",
    field=RequestField(
        "min_logprob",
        float | None,
        Field(
            default=None,
            ge=-100,
            le=0,
            description="Drop lines of the completion from the first one whose tokens have a lower mean "
            "log-probability; where that is the first line, the completion is empty.",
        ),
    ),
    watch=lambda asked: [Confidence(float(asked.setting))],
    needs_logprobs=True,
    trial=Trial("auto and confidence", mode="auto", alone=False, setting=-1.0),
)
