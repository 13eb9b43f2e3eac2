"""The two stop rules of llama.cpp's server that look at time and at indentation.

Source: `tools/server/README.md` of ggml-org/llama.cpp, `t_max_predict_ms` and `n_indent`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from deployments.protocol import Delta


@dataclass
class _Text:
    """One completion, of which no character is looked at twice.

    held: what may turn out not to belong to it: the line ends and the white space behind its last word.
    length: of `held`. line: where in it the newest line end stands. indent: white space behind that.
    broken: it has a line end. certain: how much of `held` belongs to it.
    """

    held: list[str] = field(default_factory=list)
    length: int = 0
    line: int = 0
    indent: int = 0
    broken: bool = False
    certain: int = 0

    def add(self, text: str, least_indent: int) -> int | None:
        """Where, counted from the start of `held`, the line ends that one with less indentation follows.

        Blank lines do not count. Without such a line, `take` says what is certain now.
        """
        self.held.append(text)
        certain = 0 if self.length else None
        for at, char in enumerate(text, start=self.length):
            if char == "\n":
                certain = at if certain is None else certain
                self.line, self.indent = at, 0
            elif certain is not None and char.isspace():
                self.indent += 1
            elif certain is not None:
                if self.indent < least_indent:
                    return self.line
                certain = None
        self.length += len(text)
        self.certain = self.length if certain is None else certain
        return None

    def take(self, end: int | None = None) -> str:
        """What comes before `end`, or is certain; it is held no more."""
        end = self.certain if end is None else end
        if not end:
            return ""
        text = "".join(self.held)
        self.held, self.length, self.line = [text[end:]], len(text) - end, self.line - end
        return text[:end]


class SelfStops:
    """`n_indent` and `t_max_predict_ms`: both end a completion with the finish reason `length`.

    ended: completions that have finished, for whatever reason.
    """

    def __init__(self, n_indent: int, t_max_ms: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.ended = 0
        self._n_indent = n_indent
        self._t_max_s = t_max_ms / 1000 if t_max_ms else math.inf
        self._clock = clock
        self._started_at: float | None = None
        self._texts: dict[int, _Text] = {}
        self._done: set[int] = set()

    def apply(self, delta: Delta) -> Delta | None:
        """The delta, with the text that is certain; finished where a rule ends it. None where it has ended already."""
        if delta.index in self._done:
            return None
        now = self._clock()
        if self._started_at is None:
            self._started_at = now
        text = self._texts.setdefault(delta.index, _Text())
        text.broken = text.broken or "\n" in delta.text
        end = text.add(delta.text, self._n_indent) if self._n_indent else None
        late = delta.finish_reason is None and text.broken and now - self._started_at > self._t_max_s
        if end is not None or late:
            delta.finish_reason = "length"
        if end is None and delta.finish_reason is not None:
            end = text.length
        if self._n_indent:
            delta.text = text.take(end)
        if delta.finish_reason is not None:
            self._done.add(delta.index)
            self.ended += 1
        return delta
