"""What every engine is asked to do, the same for all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["prefill", "decode", "batch", "replay"]


@dataclass(frozen=True)
class Workload:
    """`requests` prompts of `input_len` random tokens, all there from the start, greedy, to `output_len` tokens each.

    kind, seen from outside, so that one definition fits every engine:
    - prefill: tokens a second of the prompts, output_len is 1;
    - decode: tokens a second, requests * output_len / (T(output_len + 1) - T(1)), T the time of a whole run;
    - batch: seconds of the whole run; less is better;
    - replay: real texts instead, one after the other; tokens a second after each one's first. An engine that speculates
      is made to write the text itself, so that its drafts are as often right as they would be; to others it makes no
      difference what they write.
    """

    name: str
    kind: Kind
    requests: int
    input_len: int
    output_len: int
    texts: tuple[dict[str, list[int]], ...] = ()
    """prompt and output, ids; of a replay"""

    @property
    def longest(self) -> int:
        """Tokens of its longest sequence."""
        texts = (len(t["prompt"]) + len(t["output"]) for t in self.texts)
        return max(texts, default=self.input_len + self.output_len)

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
    Workload("edit-1", "replay", 1, 0, 0),
    Workload("infill-1", "replay", 1, 0, 0),
)
"""The texts of the replays are given by the command."""
