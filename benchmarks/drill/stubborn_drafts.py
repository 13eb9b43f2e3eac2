"""Drafts that can be broken: while a file is there, nothing is learned from how they come out.

The product's own get short, and pause, when they are wrong, so that clients alone can hardly make them do harm.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.drill import switch
from deployments.replica.group import RankProcess
from deployments.replica.replica import EngineReplica
from model.config import EngineConfig
from model.scheduling.speculation import Speculator


class StubbornSpeculator(Speculator):
    def learn(self, drafted: int, accepted: int) -> None:
        super().learn(drafted, drafted if switch.is_on("drafts") else accepted)


class StubbornRank(RankProcess):
    def __init__(
        self, config: EngineConfig, rank: int, size: int, configure_logs: Callable[..., None] | None = None
    ) -> None:
        import model.engine

        model.engine.Speculator = StubbornSpeculator  # type: ignore[misc]
        super().__init__(config, rank, size, configure_logs)


class StubbornEngine(EngineReplica):
    rank_class = StubbornRank
