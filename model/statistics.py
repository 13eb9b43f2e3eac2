"""What an engine says of itself: totals, its state, where a step's time went. It crosses a process at every step."""

from __future__ import annotations

from typing import Literal

import msgspec

from monitoring.metrics import engine_counters
from monitoring.specs import EngineCounterSpec

Products = Literal["amx", "bf16", "int16"]


class ForwardPath(msgspec.Struct, frozen=True):
    """What computes an engine's steps.

    path: "native": our forward pass in C, on a CPU; "triton": our kernels on a GPU; "torch": PyTorch's operations.
    reason: why it is not the fast one of its device, a setting or an obstacle; None where it is.
    products: how the forward pass in C multiplies bfloat16: by AMX, by AVX512-BF16, or in blocks of 16-bit integers.
    """

    path: Literal["native", "triton", "torch"]
    reason: str | None = None
    products: Products | None = None


class EngineCounters:
    """What the engine has counted since it began: a total for each counter that `monitoring.metrics` declares."""

    def __init__(self) -> None:
        self._totals: dict[str, float] = {counter.name: 0 for counter in engine_counters()}

    def add(self, counter: EngineCounterSpec, amount: float = 1) -> None:
        """Raises KeyError for a counter that was declared after this object was made."""
        self._totals[counter.name] += amount

    def __getitem__(self, counter: EngineCounterSpec) -> float:
        return self._totals[counter.name]

    def totals(self) -> dict[str, float]:
        """A copy, by the counters' names."""
        return self._totals.copy()


class EngineStats(msgspec.Struct):
    """A snapshot of the engine.

    running, waiting: sequences. kv_blocks_total, used, cached: blocks of one rank's cache; held by running sequences;
    whose content can be found by hash. lacks_blocks: whether the last step had too few of them for one that waits.
    totals: by the names of its counters; they only grow.
    """

    running: int = 0
    waiting: int = 0
    kv_blocks_total: int = 0
    kv_blocks_used: int = 0
    kv_blocks_cached: int = 0
    lacks_blocks: bool = False
    oldest_waiting_seconds: dict[int, float] = {}
    """By class of service, how long the sequence has waited that has waited longest for its first step."""
    totals: dict[str, float] = {}
    parameter_bytes: list[int] = []
    """Bytes of parameters held by each rank."""

    @property
    def kv_usage(self) -> float:
        """Share of the cache that running sequences hold, 0 to 1."""
        return self.kv_blocks_used / self.kv_blocks_total if self.kv_blocks_total else 0.0

    def __getitem__(self, counter: EngineCounterSpec) -> float:
        """The total of a counter; 0 before the engine has said anything."""
        return self.totals.get(counter.name, 0)


class StepTiming(msgspec.Struct):
    """One step: its size, and where its time went, in seconds.

    tokens: computed, drafts included. schedule: drafting, scheduling and building the batch; forward: the network,
    on a GPU by the device's own clock; sample: logits to tokens, the wait for the device included.
    """

    sequences: int
    tokens: int
    seconds: float
    schedule: float
    forward: float
    sample: float

    @property
    def other(self) -> float:
        return max(self.seconds - self.schedule - self.forward - self.sample, 0.0)


class GpuMemory(msgspec.Struct):
    """Memory of the GPU that one rank runs on, in bytes, whoever uses it."""

    gpu: str
    used: int
    total: int
