"""Row *Whose code it is* of the board *Service*."""

from __future__ import annotations

from monitoring import front_metrics as f
from monitoring.boards import promql as q
from monitoring.boards.panel import Panel, Row

NO_INDEX = "attribution, which is off unless there is an index"

ATTRIBUTION = Row(
    "Whose code it is",
    (
        Panel(
            "Completions that repeat known code",
            "A second: looked up in the attribution index, answered with a source, ended early, and not looked up "
            "since the index could not be read.",
            (
                (q.rate(f.ATTRIBUTION_COMPLETIONS), "looked up"),
                (q.rate(f.ATTRIBUTION_MATCHES), "with a source"),
                (q.rate(f.ATTRIBUTION_BLOCKED), "blocked"),
                (q.rate(f.ATTRIBUTION_FAILURES), "index unreadable"),
            ),
            "short",
        ),
        Panel(
            "Share with a source",
            "Of the completions that were looked up. Far above a hundredth, the index may hold what people work on.",
            ((q.ratio(q.rate(f.ATTRIBUTION_MATCHES), q.rate(f.ATTRIBUTION_COMPLETIONS)), "with a source"),),
            "percentunit",
            thresholds=((0.02, "orange"), (0.1, "red")),
            needs=NO_INDEX,
        ),
        Panel(
            "Time to look up",
            "Of one completion, beside the event loop. Above some milliseconds the index's disk is slow.",
            tuple((q.quantile(p, f.ATTRIBUTION_SECONDS), f"p{p * 100:g}") for p in (0.5, 0.99)),
            "s",
            needs=NO_INDEX,
        ),
    ),
)
