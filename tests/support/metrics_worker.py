"""A process that records some metrics in a shared directory, says so, and waits to be ended."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

from monitoring import metrics
from monitoring.ingress import IngressMetrics
from monitoring.process import init
from monitoring.replica import ReplicaMetrics


def main() -> None:
    directory, running, tokens = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    init(directory)
    replica = ReplicaMetrics("pico")
    replica.engine_stats(
        SimpleNamespace(
            running=running,
            waiting=2 * running,
            kv_blocks_total=100,
            kv_blocks_used=10 * running,
            kv_blocks_cached=5,
            oldest_waiting_seconds={1: 0.5},
            totals={
                metrics.READ_BYTES.name: 1e9,
                metrics.FLOPS.name: 1e9,
                metrics.ENGINE_STEPS.name: tokens,
                metrics.PROMPT_TOKENS.name: 2 * tokens,
                metrics.GENERATION_TOKENS.name: tokens,
                metrics.PREFIX_CACHE_QUERIES.name: tokens,
                metrics.PREFIX_CACHE_HITS.name: tokens // 2,
                metrics.PREEMPTIONS.name: 1,
                metrics.DRAFT_TOKENS.name: 8,
                metrics.ACCEPTED_DRAFT_TOKENS.name: 5,
            },
        )
    )
    for seconds in (0.004, 0.03, 40.0):
        replica.of().first_token(seconds)
    replica.of().request_finished("stop", 0.2)
    IngressMetrics("pico").rejected("queue_full")
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
