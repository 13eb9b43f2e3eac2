"""Metrics of a replica that a test can ask what was recorded."""

from __future__ import annotations

from deployments.labels import declared_labels
from model.statistics import EngineStats
from monitoring import ReplicaMetrics, RequestMetrics
from monitoring.engine import EngineSnapshot


class RecordedMetrics(ReplicaMetrics):
    """Remembers what was recorded, beside recording it.

    cancelled_tokens, superseded_tokens: wasted by each such request. reused: requests that were typed ahead.
    pieces: of long prompts.
    """

    def __init__(self) -> None:
        self.first: list[float] = []
        self.between: list[int] = []
        self.finished: list[str] = []
        self.cancelled_tokens: list[int] = []
        self.superseded_tokens: list[int] = []
        self.reused = self.pieces = 0
        self.rules: list[str] = []
        self.lost: list[str] = []
        self.asked_for: list[tuple[str, str]] = []
        self.newest: EngineStats | None = None
        super().__init__("test", declared=declared_labels())  # makes the known recorders through `of`

    def of(self, team: str = "default", dialect: str = "other") -> RequestMetrics:
        self.asked_for.append((team, dialect))
        return _RecordedRequests(self)

    def prompt_piece(self) -> None:
        super().prompt_piece()
        self.pieces += 1

    def rule_ended(self, rule: str) -> None:
        super().rule_ended(rule)
        self.rules.append(rule)

    def engine_lost(self, cause: str) -> None:
        super().engine_lost(cause)
        self.lost.append(cause)

    def engine_stats(self, stats: EngineSnapshot) -> None:
        super().engine_stats(stats)
        self.newest = stats  # type: ignore[assignment]


class _RecordedRequests(RequestMetrics):
    def __init__(self, metrics: RecordedMetrics) -> None:
        super().__init__("test", "default", "other")
        self._seen = metrics

    def first_token(self, seconds: float) -> None:
        super().first_token(seconds)
        self._seen.first.append(seconds)

    def inter_token(self, seconds: float, count: int = 1) -> None:
        super().inter_token(seconds, count)
        self._seen.between.append(count)

    def request_finished(self, finish_reason: str, seconds: float) -> None:
        super().request_finished(finish_reason, seconds)
        self._seen.finished.append(finish_reason)

    def cancelled(self, wasted_tokens: int) -> None:
        super().cancelled(wasted_tokens)
        self._seen.cancelled_tokens.append(wasted_tokens)

    def superseded(self, wasted_tokens: int) -> None:
        super().superseded(wasted_tokens)
        self._seen.superseded_tokens.append(wasted_tokens)

    def typed_ahead(self, tokens: int) -> None:
        super().typed_ahead(tokens)
        self._seen.reused += 1
