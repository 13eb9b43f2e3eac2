"""What a run comes to: each figure with its interval, the published one beside it, and whether they agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.quality.comparison import compare
from benchmarks.quality.estimates import Count, interval, percent, reproduced
from benchmarks.quality.protocols.protocol import Problem, Protocol
from benchmarks.quality.published import Published, published
from benchmarks.quality.record import Key, Sample
from benchmarks.quality.sandbox.judge import Verdict
from benchmarks.report import Result, Row, number

KS = (1, 10, 100)
ALL = "all"


@dataclass(frozen=True)
class Answers:
    """Of one server, or of none. keys: of each problem, in the order of the problems."""

    keys: list[list[Key]]
    samples: Mapping[Key, Sample]
    verdicts: Mapping[Key, Verdict]

    def counts(self) -> list[Count]:
        return [Count(sum(self.verdicts[key].passed for key in keys), len(keys)) for keys in self.keys]

    def reasons(self) -> Counter[str]:
        return Counter(self.verdicts[key].why for keys in self.keys for key in keys)


@dataclass(frozen=True)
class Against:
    """model: whose published figures stand beside ours, if any. unlike: what is not as it was there, if anything."""

    model: str | None
    unlike: str | None


def groups(problems: Sequence[Problem]) -> Iterator[tuple[str, list[int]]]:
    """Places of the problems of each group, and of all, where there are several."""
    names = sorted({problem.group for problem in problems})
    for name in names:
        yield name, [at for at, problem in enumerate(problems) if problem.group == name]
    if len(names) > 1:
        yield ALL, list(range(len(problems)))


def report(protocol: Protocol, problems: Sequence[Problem], answers: Answers, against: Against) -> Result:
    counts = answers.counts()
    result = Result(f"quality {protocol.name}", {}, {"problems": len(problems)}, shows_metrics=False)
    result.details = [
        {"problem": problem.id, "right": count.right, "of": count.of}
        for problem, count in zip(problems, counts, strict=True)
    ]
    rows: list[Row] = [("", f"{protocol.score}, %", "95 %", "published, %", "reproduced")]
    for group, places in groups(problems):
        mine = [counts[at] for at in places]
        known = published(against.model, protocol.name, group) if against.model else None
        rows += _rows(result, protocol, group, mine, known, against.unlike)
    title = f"{protocol.title}: {len(problems)} problems, {counts[0].of} answers each"
    result.tables[title] = rows
    result.tables["what became of the answers"] = [
        ("", "answers"),
        *((why, f"{times:,}") for why, times in answers.reasons().most_common()),
    ]
    return result


def _rows(
    result: Result, protocol: Protocol, group: str, counts: list[Count], known: Published | None, unlike: str | None
) -> Iterator[Row]:
    panel = panel_of(protocol)
    bars, whiskers = result.bars.setdefault(panel, {}), result.whiskers.setdefault(panel, {})
    for k in KS if protocol.score == "pass@1" else KS[:1]:
        if k > counts[0].of:
            return
        name = protocol.score if k == 1 else f"pass@{k}"
        ours, (low, high) = percent(counts, k), interval(counts, k)
        result.metrics |= {f"{group}/{name}_percent": ours, f"{group}/{name}_low": low, f"{group}/{name}_high": high}
        bars[f"{group} {name}"], whiskers[f"{group} {name}"] = ours, (low, high)
        beside, agrees = "-", "-"
        if known is not None and k == 1:
            beside, different = number(known.percent), unlike or known.unlike
            agrees = different or ("yes" if _agrees(counts, known) else "no")
            result.metrics |= {f"{group}/published_percent": known.percent, f"{group}/reproduced": agrees}
            result.metrics[f"{group}/published_in"] = known.source
            bars[f"{group} published"] = known.percent
        yield f"{group}, {name}", f"{ours:.1f}", f"{low:.1f} to {high:.1f}", beside, agrees


def panel_of(protocol: Protocol) -> str:
    return f"{protocol.title}, % right"


def _agrees(counts: list[Count], known: Published) -> bool:
    return reproduced(counts, known.percent, known.samples)


def add_comparison(result: Result, protocol: Protocol, first: Answers, second: Answers) -> None:
    """The second server beside the first, problem by problem."""
    found, counts = compare(first.counts(), second.counts(), same_texts(first, second)), second.counts()
    result.bars[panel_of(protocol)]["second server"] = percent(counts)
    result.whiskers[panel_of(protocol)]["second server"] = interval(counts)
    result.metrics |= {f"second_less_first/{name}": value for name, value in vars(found).items()}
    result.metrics["second_less_first/more_than_chance"] = found.more_than_chance
    result.tables["the second server beside the first"] = [
        ("", "second less first"),
        ("difference, percentage points", f"{found.difference:+.2f}"),
        ("95 % of it, over problems", f"{found.low:+.2f} to {found.high:+.2f}"),
        ("problems with more right answers", str(found.better)),
        ("problems with fewer", str(found.worse)),
        ("p of so uneven a split by chance", f"{found.p:.3g}"),
        ("more than chance", "yes" if found.more_than_chance else "no"),
        ("answers that are the same text, %", f"{100 * found.same_texts:.1f}"),
    ]


def same_texts(first: Answers, second: Answers) -> float:
    pairs = [(first.samples[key], second.samples[key]) for keys in first.keys for key in keys]
    return sum(a.completion == b.completion for a, b in pairs) / len(pairs)
