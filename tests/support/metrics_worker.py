"""A process that records some metrics in a shared directory, says so, and waits to be ended."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

from monitoring.process import init
from monitoring.recorders import IngressMetrics, ReplicaMetrics


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
            oldest_waiting_seconds=0.5,
            read_bytes_total=1e9,
            flops_total=1e9,
            steps_total=tokens,
            prompt_tokens_total=2 * tokens,
            generation_tokens_total=tokens,
            prefix_cache_queries_total=tokens,
            prefix_cache_hits_total=tokens // 2,
            preemptions_total=1,
            draft_tokens_total=8,
            accepted_draft_tokens_total=5,
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
