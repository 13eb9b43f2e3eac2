"""What becomes known of connections that were refused before they were a request, or cut: a count, and a few lines."""

from __future__ import annotations

import asyncio

from monitoring.connections import ConnectionMetrics
from monitoring.few_lines import PERIOD_S, FewLines


class Refusals:
    """Of one process. metrics: its recorder; None: nothing is counted. Its event is `connection.refused`."""

    def __init__(self, metrics: ConnectionMetrics | None = None) -> None:
        self._metrics = metrics
        self._lines = FewLines("connection.refused")
        self._timer: asyncio.TimerHandle | None = None

    def note(self, reason: str, client: str | None) -> None:
        """reason: one of labels.CONNECTION_REFUSALS. client: the address that it came from, where it is known."""
        if self._metrics is not None:
            self._metrics.refused(reason)
        if not self._lines.write(reason=reason, client=client) and self._timer is None:
            # Whoever stops now would else be the last that is heard of.
            self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._lines.tell()
