"""What every engine is asked to do, the same for all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["prefill", "decode", "batch"]


@dataclass(frozen=True)
class Workload:
    """`requests` prompts of `input_len` random tokens, all there from the start, greedy, to `output_len` tokens each.

    kind, seen from outside, so that one definition fits every engine:
    - prefill: tokens a second of the prompts, output_len is 1;
    - decode: tokens a second, requests * output_len / (T(output_len + 1) - T(1)), T the time of a whole run;
    - batch: seconds of the whole run; less is better.
    """

    name: str
    kind: Kind
    requests: int
    input_len: int
    output_len: int

    @property
    def unit(self) -> str:
        return "s" if self.kind == "batch" else "tok/s"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def ratio(self, ours: float, theirs: float) -> float:
        """Above 1: we are faster."""
        return theirs / ours if self.kind == "batch" else ours / theirs

    def better(self, values: list[float]) -> float:
        return min(values) if self.kind == "batch" else max(values)


WORKLOADS = (
    Workload("prefill-512", "prefill", 1, 512, 1),
    Workload("decode-1", "decode", 1, 32, 64),
    Workload("decode-8", "decode", 8, 32, 64),
    Workload("batch-8", "batch", 8, 512, 64),
    Workload("batch-32", "batch", 32, 512, 64),
)
