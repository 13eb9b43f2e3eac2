"""One page of metrics out of the files of many processes. What has not changed is neither parsed nor written again.

`prometheus_client` merges such files, too, and parses every key of every file each time. A collection has to be short:
where all processors are taken, what needs many turns of them waits as many times.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.utils import floatToGoString

from monitoring.stored_file import Series, StoredFile

Labels = tuple[tuple[str, str], ...]

_NOTHING: dict[Callable[[float, float], float] | None, float] = {None: 0.0, max: -math.inf, min: math.inf}
"""What a place has before it has seen a value."""


class MergedFiles:
    """The families whose names begin with `prefix`, of all files together. Not thread safe."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._files: dict[Path, StoredFile] = {}
        self._keys: list[list[str]] = []
        self._known: dict[str, Series] = {}
        self._lines = Lines([])
        self._changed = False
        self._text = ""

    def read(self, paths: Iterable[Path]) -> None:
        """These are the files now."""
        before = self._files
        self._files = {}
        for path in paths:
            file = before.get(path) or StoredFile(path)
            with contextlib.suppress(FileNotFoundError):  # a gauge for which there was no more room
                self._changed |= file.read()
                self._files[path] = file
        self._changed |= self._files.keys() != before.keys()

    def text(self) -> str:
        """In Prometheus' text format, of the files as they were read last."""
        if self._changed:
            keys = [file.keys for file in self._files.values()]
            if len(keys) != len(self._keys) or any(now is not then for now, then in zip(keys, self._keys, strict=True)):
                self._keys = keys
                self._lines = self._made_lines()
            self._text = self._lines.text()
            self._changed = False
        return self._text

    def _made_lines(self) -> Lines:
        known = self._known
        self._known = {key: known.get(key) or Series.of(key) for keys in self._keys for key in keys}
        return Lines([(file, [self._shown(key) for key in file.keys]) for file in self._files.values()])

    def _shown(self, key: str) -> Series | None:
        series = self._known[key]
        return series if series.family.startswith(self._prefix) else None


@dataclass
class Family:
    """kind, documentation: as the first file has them. places: of its values, in their order.

    buckets: of a histogram, by the labels that they share: upper bound and place of each.
    """

    kind: str
    documentation: str
    places: list[int] = field(default_factory=list)
    buckets: dict[Labels, list[tuple[float, int]]] = field(default_factory=dict)


class Lines:
    """The lines of a page, and which value of which file goes where: the same until a key comes or goes.

    files: with what each of their keys says, None where it is not shown.
    """

    def __init__(self, files: Sequence[tuple[StoredFile, Sequence[Series | None]]]) -> None:
        self._places: dict[tuple[str, Labels], int] = {}
        self._begins: list[str] = [""]
        self._empty: list[float] = [0.0]
        self._families: dict[str, Family] = {}
        self._sources = [(file, [self._place(file, one) for one in series]) for file, series in files]
        self._histograms = [
            (self._of(f"{name}_count", labels, family), [place for _, place in sorted(buckets)])
            for name, family in self._families.items()
            for labels, buckets in family.buckets.items()
        ]
        self._order = [place for name, family in self._families.items() for place in self._written(name, family)]
        self._values: list[float | None] = [None] * len(self._order)
        self._lines = [""] * len(self._order)

    def _place(self, file: StoredFile, series: Series | None) -> int:
        if series is None:
            return 0  # where what is not shown adds up
        family = self._families.setdefault(series.family, Family(file.kind, series.documentation))
        known = len(self._begins)
        place = self._of(series.name, series.labels, family)
        if place == known:
            self._empty[place] = _NOTHING[file.extreme]
            bound = dict(series.labels).get("le") if file.kind == "histogram" else None
            if bound is not None:
                shared = tuple(pair for pair in series.labels if pair[0] != "le")
                family.buckets.setdefault(shared, []).append((float(bound), place))
        return place

    def _of(self, name: str, labels: Labels, family: Family) -> int:
        place = self._places.setdefault((name, labels), len(self._begins))
        if place == len(self._begins):
            self._begins.append(name + _labels(labels))
            self._empty.append(0.0)
            family.places.append(place)
        return place

    def _written(self, name: str, family: Family) -> list[int]:
        """The places of a family, the first with what is said of it."""
        shown = f"{name}_total" if family.kind == "counter" else name
        said = f"# HELP {shown} {_escaped(family.documentation, quote=False)}\n# TYPE {shown} {family.kind}\n"
        self._begins[family.places[0]] = said + self._begins[family.places[0]]
        return family.places

    def text(self) -> str:
        totals = self._totals()
        values, lines, begins = self._values, self._lines, self._begins
        for index, place in enumerate(self._order):
            value = totals[place]
            if value != values[index]:
                values[index] = value
                lines[index] = f"{begins[place]} {floatToGoString(value)}\n"
        return "".join(lines)

    def _totals(self) -> list[float]:
        totals = self._empty.copy()
        for file, places in self._sources:
            if (extreme := file.extreme) is not None:
                for place, value in zip(places, file.values, strict=True):
                    totals[place] = extreme(totals[place], value)
            else:
                for place, value in zip(places, file.values, strict=True):
                    totals[place] += value
        for count, buckets in self._histograms:
            below = 0.0
            for place in buckets:
                below += totals[place]
                totals[place] = below
            totals[count] = below
        return totals


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}" if labels else ""


def _escaped(text: str, quote: bool = True) -> str:
    escaped = text.replace("\\", r"\\").replace("\n", r"\n")
    return escaped.replace('"', r"\"") if quote else escaped
