"""The benchmarks, by name."""

from __future__ import annotations

from benchmarks.quality.protocols import ds1000, fim, humaneval, infilling, mbpp, multipl_e
from benchmarks.quality.protocols.protocol import Protocol

PROTOCOLS: dict[str, Protocol] = {
    module.PROTOCOL.name: module.PROTOCOL for module in (humaneval, mbpp, multipl_e, ds1000, fim, infilling)
}
