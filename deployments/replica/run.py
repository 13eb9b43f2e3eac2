"""One request while its replica answers it."""

from __future__ import annotations

from collections.abc import Callable

from deployments.replica.admission import Lease
from deployments.replica.sequence_trace import RequestTrace
from deployments.replica.sessions import Turn
from deployments.stop_rules.rule import StopRule


class Run:
    """One request while it is answered, for those who end it from outside.

    turn: its place in its session. trace: its spans. lease: its place in the queue. ended_by: the rule that ended it,
    once one has.
    """

    def __init__(self, turn: Turn, trace: RequestTrace, lease: Lease) -> None:
        self.turn = turn
        self.trace = trace
        self.lease = lease
        self.ended_by: StopRule | None = None
        self._on_end: list[Callable[[], object]] = []

    def on_end(self, *callbacks: Callable[[], object]) -> None:
        """Call these when it is ended; now, if that has happened."""
        self._on_end += callbacks
        if self.ended_by is not None:
            for callback in callbacks:
                callback()

    def end(self, rule: StopRule) -> None:
        """Only the first call counts."""
        if self.ended_by is None:
            self.ended_by = rule
            for callback in self._on_end:
                callback()

    @property
    def cut_short(self) -> str | None:
        """What ended it before its sequences' end, of which its client knows; None: nothing did."""
        if self.ended_by is not None:
            return self.ended_by.name
        return "displaced" if self.lease.displaced else None

    @property
    def outcome(self) -> str:
        """How sequences that it cut short are counted."""
        rule = self.ended_by
        return "length" if rule is not None and rule.finish_reason == "length" else "abort"
