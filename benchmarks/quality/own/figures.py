"""What a run on a company's own code comes to: figures by language and kind, and what was taken to get them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.quality.clustered import Interval, Observation, percent_interval, ratio, ratio_interval
from benchmarks.quality.own.cost import Cost
from benchmarks.quality.own.files import Selection
from benchmarks.quality.own.questions import Piece, Question, naming_special_tokens
from benchmarks.quality.own.record import Reading
from benchmarks.quality.similarity import similarity
from benchmarks.report import Result, Row

ALL = "all"
Intervals = Callable[[Sequence[Observation]], Interval | None]
EXACT_PANEL, SIMILARITY_PANEL, BITS_PANEL = "exact match, %", "edit similarity, %", "bits a byte"
FEW_FILES = 20
"""A bootstrap of fewer clusters gives intervals that are too narrow."""


@dataclass(frozen=True)
class Scored:
    """similarity: from 0 to 1."""

    question: Question
    exact: bool
    similarity: float

    def exact_percent(self) -> Observation:
        return Observation(self.question.file, 100.0 * self.exact)

    def similarity_percent(self) -> Observation:
        return Observation(self.question.file, 100.0 * self.similarity)


@dataclass(frozen=True)
class Read:
    piece: Piece
    reading: Reading

    def bits(self) -> Observation:
        return Observation(self.piece.file, self.reading.bits, self.reading.bytes)


def score(questions: Sequence[Question], texts: Mapping[str, str]) -> list[Scored]:
    """White space at both ends aside; an answer to a line ends with its line, also where a server knows no stops."""
    return [_score(question, texts[question.id]) for question in questions]


def _score(question: Question, text: str) -> Scored:
    answer, right = text if question.kind == "block" else text.partition("\n")[0], question.missing.strip()
    answer = answer.strip()
    return Scored(question, answer == right, similarity(answer, right))


def groups(scored: Sequence[Scored]) -> Iterator[tuple[str, list[int]]]:
    """Places of each language and kind, of each kind, and of all, where there are several."""
    languages = sorted({one.question.language for one in scored})
    kinds = sorted({one.question.kind for one in scored}, reverse=True)
    for language in [*languages, ALL] if len(languages) > 1 else languages:
        for kind in [*kinds, ""] if language == ALL and len(kinds) > 1 else kinds:
            places = [
                at
                for at, one in enumerate(scored)
                if language in (ALL, one.question.language) and kind in ("", one.question.kind)
            ]
            if places:
                yield f"{language}, {kind}" if kind else language, places


def languages(read: Sequence[Read]) -> Iterator[tuple[str, list[int]]]:
    names = sorted({one.piece.language for one in read})
    for name in [*names, ALL] if len(names) > 1 else names:
        yield name, [at for at, one in enumerate(read) if name in (ALL, one.piece.language)]


def report(selection: Selection, questions: Sequence[Question], pieces: Sequence[Piece], text_asked: bool) -> Result:
    """What was taken, before anything is asked."""
    result = Result("quality own", {}, {}, shows_metrics=False)
    kinds = list(dict.fromkeys(question.kind for question in questions))
    rows: list[Row] = [("", "files", "kB", *(f"gaps: {kind}" for kind in kinds), "kB read")]
    for language in [*selection.languages, ALL] if len(selection.languages) > 1 else selection.languages:
        of = [file for file in selection.files if language in (ALL, file.language)]
        size = sum(len(file.text.encode()) for file in of)
        gaps = [sum(q.kind == kind and language in (ALL, q.language) for q in questions) for kind in kinds]
        read = sum(len(p.text[p.begin :].encode()) for p in pieces if language in (ALL, p.language))
        rows.append((language, f"{len(of):,}", f"{size / 1000:,.0f}", *(f"{n:,}" for n in gaps), f"{read / 1000:,.0f}"))
        result.metrics |= {f"{language}/files": len(of), f"{language}/bytes": size}
    result.tables["what was taken"] = rows
    left = [(reason, f"{number:,}") for reason, number in selection.left_out.most_common()]
    if text_asked and (special := naming_special_tokens(selection)):
        left.append(("taken for gaps, not read: they spell special tokens", f"{special:,}"))
    if left:
        result.tables["what was left out"] = [("", "files"), *left]
    result.metrics |= {f"left_out/{reason}": number for reason, number in selection.left_out.items()}
    return result


def add_gaps(result: Result, scored: Sequence[Scored], title: str) -> None:
    rows: list[Row] = [("", "gaps", "files", "exact, %", "95 %", "similarity, %", "95 %")]
    for name, places in groups(scored):
        mine = [scored[at] for at in places]
        row = [name, f"{len(mine):,}", counted(len({one.question.file for one in mine}))]
        result.metrics[f"{name}/gaps"] = len(mine)
        for panel, figure, values, interval in (
            (EXACT_PANEL, "exact_percent", [one.exact_percent() for one in mine], percent_interval),
            (SIMILARITY_PANEL, "similarity_percent", [one.similarity_percent() for one in mine], ratio_interval),
        ):
            row += _cells(result, panel, name, figure, values, 1, interval)
        rows.append(tuple(row))
    result.tables[title] = rows
    result.details += [
        {
            "gap": one.question.id,
            "file": one.question.file,
            "language": one.question.language,
            "kind": one.question.kind,
            "exact": one.exact,
            "similarity": round(one.similarity, 4),
        }
        for one in scored
    ]


def add_readings(result: Result, read: Sequence[Read], window: int) -> None:
    """window: characters of a piece."""
    rows: list[Row] = [("", "files", "kB", BITS_PANEL, "95 %", "tokens", "pieces", "shortened")]
    for name, places in languages(read):
        mine = [read[at] for at in places]
        size, tokens = sum(one.reading.bytes for one in mine), sum(one.reading.tokens for one in mine)
        if not size:
            continue
        short = shortened(mine)
        cells = _cells(result, BITS_PANEL, name, "bits_per_byte", [one.bits() for one in mine], 4)
        rows.append(
            (
                name,
                counted(len({o.piece.file for o in mine})),
                f"{size / 1000:,.0f}",
                *cells,
                f"{tokens:,}",
                f"{len(mine):,}",
                f"{short:,}",
            )
        )
        result.metrics |= {f"{name}/bytes_read": size, f"{name}/tokens_read": tokens}
        result.metrics |= {f"{name}/pieces_read": len(mine), f"{name}/pieces_shortened": short}
        result.metrics[f"{name}/byte_perplexity"] = 2 ** result.metrics[f"{name}/bits_per_byte"]
    result.tables[f"how well the text is foreseen, in windows of {window:,} characters"] = rows
    result.details += [
        {
            "piece": one.piece.id,
            "file": one.piece.file,
            "language": one.piece.language,
            "bits": round(one.reading.bits, 3),
            "bytes": one.reading.bytes,
            "shortened": one.reading.shortened,
        }
        for one in read
    ]


def shortened(read: Sequence[Read]) -> int:
    """Pieces that were read with less before them, or in parts."""
    return sum(one.reading.shortened for one in read)


def add_costs(result: Result, costs: Sequence[Cost], requests: int) -> None:
    """Of one server, or of two."""
    names = ("first", "second")[: len(costs)]
    rows: list[Row] = [("", *names) if len(costs) > 1 else ("", "of 1,000 gaps")]
    for title, figure, digits in (
        ("seconds", "seconds", 1),
        ("GPU seconds", "gpu_seconds", 1),
        ("prompt tokens", "prompt_tokens", 0),
        ("of which cached", "cached_tokens", 0),
        ("generated tokens", "output_tokens", 0),
        ("USD", "usd", 4),
    ):
        values = [getattr(one, figure) for one in costs]
        rows.append((title, *("-" if value is None else f"{value:,.{digits}f}" for value in values)))
    rows.append(("GPU seconds are those of", *("engines' steps" if one.measured else "all the time" for one in costs)))
    result.tables[f"what 1,000 gaps cost, {requests} asked at once"] = rows
    for place, one in zip(("a_thousand_gaps", "a_thousand_gaps/second"), costs, strict=False):
        result.metrics |= {f"{place}/{name}": value for name, value in vars(one).items()}


def _cells(
    result: Result,
    panel: str,
    name: str,
    figure: str,
    values: Sequence[Observation],
    digits: int,
    interval: Intervals = ratio_interval,
) -> tuple[str, str]:
    """A figure and its interval for a table; into the metrics and the picture as well."""
    value, between = draw(result, panel, name, values, interval)
    result.metrics[f"{name}/{figure}"] = value
    if between is not None:
        result.metrics |= {f"{name}/{figure}_low": between[0], f"{name}/{figure}_high": between[1]}
    return f"{value:.{digits}f}", shown(between, digits)


def draw(
    result: Result, panel: str, name: str, values: Sequence[Observation], interval: Intervals = ratio_interval
) -> tuple[float, Interval | None]:
    """Into the picture; what it is, and its interval."""
    value, between = ratio(values), interval(values)
    result.bars.setdefault(panel, {})[name] = value
    if between is not None:
        result.whiskers.setdefault(panel, {})[name] = between
    return value, between


def counted(files: int) -> str:
    """Few ones are marked: what an interval over them says is too sure."""
    return f"{files:,}{' (few)' if files < FEW_FILES else ''}"


def shown(between: Interval | None, digits: int, sign: str = "") -> str:
    """Of one file there is none."""
    return "-" if between is None else f"{between[0]:{sign}.{digits}f} to {between[1]:{sign}.{digits}f}"
