"""A second model beside the first, gap by gap and piece by piece: 8 bits beside 16, or 1B beside 3B."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.quality.clustered import (
    Interval,
    difference,
    difference_interval,
    percent_interval,
    ratio,
    sign_flip_test,
    unseen_percent,
)
from benchmarks.quality.comparison import SIGNIFICANT
from benchmarks.quality.own.figures import (
    BITS_PANEL,
    EXACT_PANEL,
    SIMILARITY_PANEL,
    Read,
    Scored,
    counted,
    draw,
    groups,
    languages,
    shortened,
    shown,
)
from benchmarks.report import Result, Row

PREFIX = "second_less_first"


@dataclass(frozen=True)
class Beside:
    """exact, similarity: percentage points, second less first, with 95 % of them over files
    (where no file's balance differs: of how many files it may, to either side). better, worse: gaps that
    only the second filled, or only the first. p: of so uneven a balance of files, or a more uneven one, by chance.
    """

    files: int
    exact: float
    exact_between: Interval | None
    better: int
    worse: int
    p: float
    similarity: float
    similarity_between: Interval | None


def beside(first: Sequence[Scored], second: Sequence[Scored]) -> Beside:
    """Of the same gaps, in the same order."""
    exact = [one.exact_percent() for one in first], [one.exact_percent() for one in second]
    alike = [one.similarity_percent() for one in first], [one.similarity_percent() for one in second]
    balance: dict[str, int] = defaultdict(int)
    for a, b in zip(first, second, strict=True):
        balance[a.question.file] += b.exact - a.exact
    between = difference_interval(*exact)
    if between is not None and not any(balance.values()):
        between = -unseen_percent(exact[0]), unseen_percent(exact[0])
    return Beside(
        len(balance),
        difference(*exact),
        between,
        sum(b.exact > a.exact for a, b in zip(first, second, strict=True)),
        sum(b.exact < a.exact for a, b in zip(first, second, strict=True)),
        sign_flip_test(list(balance.values())),
        difference(*alike),
        difference_interval(*alike),
    )


def add_gap_comparison(result: Result, first: Sequence[Scored], second: Sequence[Scored], same_texts: float) -> None:
    rows: list[Row] = [("", "files", "exact", "95 %", "more", "fewer", "p", "similarity", "95 %")]
    for name, places in groups(first):
        one = beside([first[at] for at in places], [second[at] for at in places])
        rows.append(
            (
                name,
                counted(one.files),
                f"{one.exact:+.1f}",
                shown(one.exact_between, 1, "+"),
                str(one.better),
                str(one.worse),
                f"{one.p:.3g}{' *' if one.p < SIGNIFICANT else ''}",
                f"{one.similarity:+.1f}",
                shown(one.similarity_between, 1, "+"),
            )
        )
        for figure, value, between in (
            ("exact_points", one.exact, one.exact_between),
            ("similarity_points", one.similarity, one.similarity_between),
        ):
            _note(result, f"{name}/{figure}", value, between)
        result.metrics |= {f"{PREFIX}/{name}/{key}": getattr(one, key) for key in ("files", "better", "worse", "p")}
        draw(result, EXACT_PANEL, f"{name}, second", [second[at].exact_percent() for at in places], percent_interval)
        draw(result, SIMILARITY_PANEL, f"{name}, second", [second[at].similarity_percent() for at in places])
    result.metrics[f"{PREFIX}/same_texts"] = same_texts
    result.tables[f"the second server less the first, percentage points; {100 * same_texts:.1f} % the same text"] = rows


def add_dialects(result: Result, first: bool | None, second: bool | None, completion_mode: str, blocks: bool) -> None:
    """Whether both were asked alike. Where only one is ours, what they were asked otherwise, on top of the differences:
    these are then of servers, not of models alone.

    first, second: whether they were asked in our own dialect; None where that is not known. blocks: were asked.
    """
    alike = None if first is None or second is None else first == second
    result.metrics[f"{PREFIX}/asked_alike"] = alike
    if alike is not False:
        return

    def of(ours: str, other: str) -> tuple[str, str]:
        return (ours, other) if first else (other, ours)

    rows: list[Row] = [
        ("", "first", "second"),
        ("what does not fit", *of("cut as for editors", "halved until it fits")),
    ]
    if blocks and completion_mode != "raw":
        rows.append(("a block ends", *of(f"by completion_mode {completion_mode}", "where the model ends it")))
    result.tables["THE TWO WERE NOT ASKED ALIKE: only one is a server of ours; differences are of that, too"] = rows


def add_reading_comparison(result: Result, first: Sequence[Read], second: Sequence[Read]) -> None:
    """Of the same pieces, in the same order. Bytes differ where tokenizers begin a file with another token; what is a
    single token for one of them is left out for both.
    """
    both = [(a, b) for a, b in zip(first, second, strict=True) if a.reading.bytes and b.reading.bytes]
    first, second = [a for a, _ in both], [b for _, b in both]
    rows: list[Row] = [("", "files", BITS_PANEL, "95 %", "%", "shortened: first", "second")]
    for name, places in languages(first):
        one, other = [first[at].bits() for at in places], [second[at].bits() for at in places]
        change, between = difference(one, other), difference_interval(one, other)
        percent = f"{100 * change / before:+.2f}" if (before := ratio(one)) else "-"
        short = [shortened([both[at] for at in places]) for both in (first, second)]
        files = counted(len({first[at].piece.file for at in places}))
        rows.append((name, files, f"{change:+.4f}", shown(between, 4, "+"), percent, *map(str, short)))
        result.metrics[f"{PREFIX}/{name}/second_pieces_shortened"] = short[1]
        _note(result, f"{name}/bits_per_byte", change, between)
        draw(result, BITS_PANEL, f"{name}, second", other)
    result.tables["how well the text is foreseen, the second server less the first"] = rows


def _note(result: Result, name: str, value: float, between: Interval | None) -> None:
    result.metrics[f"{PREFIX}/{name}"] = value
    if between is not None:
        result.metrics |= {f"{PREFIX}/{name}_low": between[0], f"{PREFIX}/{name}_high": between[1]}
