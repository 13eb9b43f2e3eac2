"""What is measured of one request, and how many of them are summed up.

Names and definitions are those of `vllm bench serve` (vLLM, `vllm/benchmarks/serve.py`), times in seconds here and in
milliseconds in reports:

- TTFT, time to first token: from sending the request to the first piece of output.
- ITL, inter-token latency: between two neighbouring pieces; every gap of every request is one observation.
- TPOT, time per output token: (E2EL - TTFT) / (output tokens - 1), one observation a request; none for one token.
- E2EL, end-to-end latency: from sending the request to the last piece of output.

A piece is a token where the engine is driven in process, and a chunk of the stream over HTTP: a server that sends
several tokens in a chunk shows fewer and longer ITLs, but the same TPOT.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

PERCENTILES = (50, 95, 99)


@dataclass
class Timeline:
    """One request's life on one clock, in seconds.

    pieces: when each piece of output came. cached_tokens: None where nobody said. error: None for a success.
    """

    started: float
    prompt_tokens: int = 0
    output_tokens: int = 0
    pieces: list[float] = field(default_factory=list)
    cached_tokens: int | None = None
    error: str | None = None

    @property
    def completed(self) -> bool:
        return self.error is None and bool(self.pieces)

    @property
    def ttft(self) -> float:
        return self.pieces[0] - self.started

    @property
    def e2el(self) -> float:
        return self.pieces[-1] - self.started

    @property
    def tpot(self) -> float | None:
        return (self.e2el - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def itls(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.pieces, self.pieces[1:], strict=False)]


def distribution(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """`mean_NAME_ms`, `median_NAME_ms`, `std_NAME_ms`, `p50_NAME_ms` and so on; empty without observations.

    Percentiles interpolate linearly between the two nearest observations, as NumPy and vLLM do.
    """
    if not seconds:
        return {}
    values = np.asarray(seconds, dtype=np.float64) * 1000
    return {
        f"mean_{name}_ms": float(values.mean()),
        f"median_{name}_ms": float(np.median(values)),
        f"std_{name}_ms": float(values.std()),
        **{f"p{p}_{name}_ms": float(np.percentile(values, p)) for p in PERCENTILES},
    }


def samples(timelines: Iterable[Timeline]) -> dict[str, list[float]]:
    """Every observation of completed requests, in seconds, by metric."""
    done = [t for t in timelines if t.completed]
    return {
        "ttft": [t.ttft for t in done],
        "tpot": [t.tpot for t in done if t.tpot is not None],
        "itl": [gap for t in done for gap in t.itls],
        "e2el": [t.e2el for t in done],
    }


def summarize(timelines: Sequence[Timeline], duration: float) -> dict[str, float]:
    """vLLM's report of a run that took `duration` seconds; throughputs count completed requests only."""
    done = [t for t in timelines if t.completed]
    read, written = sum(t.prompt_tokens for t in done), sum(t.output_tokens for t in done)
    summary: dict[str, float] = {
        "completed": len(done),
        "failed": len(timelines) - len(done),
        "duration": duration,
        "total_input_tokens": read,
        "total_output_tokens": written,
        "request_throughput": len(done) / duration,
        "output_throughput": written / duration,
        "total_token_throughput": (read + written) / duration,
    }
    for name, values in samples(done).items():
        summary |= distribution(name, values)
    return summary
