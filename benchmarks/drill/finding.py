"""What a failure was found to look like; as JSON, too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.drill.failure import Failure
from benchmarks.drill.panels import Shown, panel, shown
from benchmarks.drill.watching import Sighting, Watch
from benchmarks.machine import describe_machine


class PanelSeen(msgspec.Struct, frozen=True):
    board: str
    title: str
    unit: str
    lines: tuple[Shown, ...]


class Finding(msgspec.Struct, frozen=True):
    """alerts: those that were pending or firing, in order. missing, unexpected: beside what was expected.

    machine: in words. watched_s: seconds since the failure.
    """

    failure: str
    date: str
    machine: str
    watched_s: float
    alerts: tuple[Sighting, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    panels: tuple[PanelSeen, ...]

    @property
    def as_expected(self) -> bool:
        return not self.missing and not self.unexpected

    def text(self) -> str:
        """One line for people."""
        fired = [f"{one.name} after {one.firing_s:.0f} s" for one in self.alerts if one.firing_s is not None]
        wrong = [f"{name} is missing" for name in self.missing] + [f"{name} should not" for name in self.unexpected]
        return f"{self.failure}: {', '.join(fired) or 'no alert'}" + (f" ({'; '.join(wrong)})" if wrong else "")


def find(failure: Failure, watch: Watch, healthy_at: float) -> Finding:
    """When the watch is over, and its server still there. healthy_at: Unix seconds since when all was well."""
    return Finding(
        failure=failure.name,
        date=time.strftime("%Y-%m-%d", time.gmtime(watch.began_at)),
        machine="{cores} cores of {cpu}".format_map(describe_machine()),
        watched_s=round(watch.ended_at - watch.began_at, 1),
        alerts=tuple(sorted(watch.seen.values(), key=lambda one: one.pending_s)),
        missing=watch.missing,
        unexpected=watch.unexpected,
        panels=tuple(_seen(title, watch, healthy_at) for title in failure.panels),
    )


def _seen(title: str, watch: Watch, healthy_at: float) -> PanelSeen:
    board, found = panel(title)
    lines = shown(watch.observed, found, healthy_at, watch.began_at, watch.ended_at)
    return PanelSeen(board.title.partition(": ")[2], title, found.unit, tuple(lines))


def to_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.to_builtins(findings)
    return found


def read(path: Path) -> list[Finding]:
    """Those of a result that was written, if there is one. Raises ValueError where it holds something else."""
    if not path.exists():
        return []
    try:
        return msgspec.convert(msgspec.json.decode(path.read_bytes())["details"], list[Finding])
    except (msgspec.MsgspecError, KeyError) as error:
        raise ValueError(f"{path} holds no drill: {error}") from error
