"""`python -m benchmarks quality own DIR`: how well a server fills gaps in a company's own code, and what that costs."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

from benchmarks.quality.code_gaps import KINDS, Around
from benchmarks.quality.own.asking import Manner
from benchmarks.quality.own.comparing import add_dialects, add_gap_comparison, add_reading_comparison
from benchmarks.quality.own.cost import Price, cost, published_price
from benchmarks.quality.own.figures import add_costs, add_gaps, add_readings, report, score
from benchmarks.quality.own.files import CODE, Selection, select
from benchmarks.quality.own.questions import ASKED, Sample, fingerprint, pieces, questions
from benchmarks.quality.own.record import OwnRecord
from benchmarks.quality.own.run import Work, asked
from benchmarks.quality.second_server import add_second_server_arguments, second_server
from benchmarks.quality.work import CANONICAL, EMPTY
from benchmarks.report import Result
from benchmarks.server.completions import add_server_arguments

SERVED = "served"
LEAST_WINDOW = 256
MODES = ("auto", "block", "raw")


def add_arguments(parser: argparse.ArgumentParser, runs: Path) -> None:
    """runs: the folder in which runs are kept."""
    usual = Sample()
    parser.add_argument("repository", type=Path, metavar="DIR", help="a git repository, a part of one, or a folder")
    files = parser.add_argument_group("what is asked")
    files.add_argument(
        "--since", type=date.fromisoformat, metavar="DATE", help="only files that were first committed then or later"
    )
    files.add_argument(
        "--languages", type=_words, metavar="A,B", help="(default: all that are code: neither prose nor JSON)"
    )
    files.add_argument("--kinds", type=_words, default=",".join(ASKED), metavar="A,B", help=f"of {', '.join(KINDS)}")
    files.add_argument("--gaps", type=int, default=usual.gaps, help="of each language and kind, at most")
    files.add_argument("--gaps-per-file", type=int, default=usual.per_file, help="of one kind, at most")
    files.add_argument("--before", type=int, default=usual.around.before, help="characters before a gap, at most")
    files.add_argument("--behind", type=int, default=usual.around.behind, help="characters behind a gap, at most")
    files.add_argument("--text", type=int, default=usual.text, help="characters read of each language, for bits a byte")
    files.add_argument("--window", type=int, default=usual.window, help="characters of a piece that is read")
    files.add_argument("--seed", type=int, default=usual.seed, help="of what is drawn")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--completion-mode", choices=MODES, default="auto", help="where blocks end, on our own server")
    parser.add_argument(
        "--answers",
        choices=(SERVED, CANONICAL, EMPTY),
        default=SERVED,
        help="score what needs no server: what is missing, or nothing; shows what would be taken",
    )
    parser.add_argument("--run", dest="directory", type=Path, default=runs / "own", help="where answers are kept")
    parser.add_argument("--sampling-only", action="store_true", help="ask, and score nothing; a second run scores")
    add_server_arguments(parser)
    parser.add_argument("--requests", type=int, default=4, help="requests that are open at once")
    costs = parser.add_argument_group("cost")
    costs.add_argument("--gpus", type=int, default=1, help="of an engine")
    costs.add_argument(
        "--price",
        type=_price,
        metavar="USD",
        help="for 1,000 tokens, or PROMPT,CACHED,OUTPUT (default: what a model costs that has no price of its own)",
    )
    add_second_server_arguments(parser)
    parser.add_argument("--compare-gpus", type=int, metavar="N", help="of an engine of it (default: --gpus)")
    parser.add_argument("--compare-price", type=_price, metavar="USD", help="likewise (default: --price)")


def run(options: argparse.Namespace) -> Result:
    """Raises ValueError for a folder or options that do not fit, RuntimeError where a server fails."""
    _check(options)
    selection = select(options.repository, options.languages or CODE, options.since)
    sample = Sample(
        tuple(options.kinds),
        options.gaps,
        options.gaps_per_file,
        Around(options.before, options.behind),
        options.text,
        options.window,
        options.seed,
    )
    manner = Manner(options.completion_mode, options.temperature, options.seed, options.requests)
    work = Work(questions(selection, sample), pieces(selection, sample), manner)
    if not work.questions:
        raise ValueError("the files have no gaps of the kinds that are asked for")
    result = report(selection, work.questions, work.pieces, options.text > 0)
    if options.since is None and options.answers == SERVED:
        print("files of any age: a model may have learned from those that are public (--since)", file=sys.stderr)
    result.settings = {
        "model": options.answers,
        **manner.settings(),
        "asked": fingerprint(work.questions, work.pieces),
        "commit": selection.commit,
        "since": None if options.since is None else options.since.isoformat(),
        **{name: getattr(options, name) for name in ("gaps", "gaps_per_file", "before", "behind", "text", "window")},
        "kinds": list(sample.kinds),
        "seed": sample.seed,
        "gpus": options.gpus,
    }
    if options.answers == SERVED:
        _served(result, work, selection, options)
    else:
        texts = {one.id: one.missing if options.answers == CANONICAL else "" for one in work.questions}
        add_gaps(result, score(work.questions, texts), _title(selection))
    return result


def _served(result: Result, work: Work, selection: Selection, options: argparse.Namespace) -> None:
    first = asked(work, options.directory, options)
    second = None
    if options.compare:  # without the first's bits a byte the second's are compared with nothing
        again = replace(work, pieces=[]) if first.unread else work
        second = asked(again, options.directory / "compared", second_server(options))
    result.settings |= {"model": first.served.model, "weights": first.served.weights}
    if options.sampling_only:
        result.shows_metrics = True
        result.metrics = {"answers": sum(len(one.answers) for one in (first, second) if one is not None)}
        return
    scored, read = score(work.questions, work.texts(first)), work.read(first)
    add_gaps(result, scored, _title(selection))
    if read:
        add_readings(result, read, options.window)
    price = options.price or published_price()
    costs = [cost(work.answers(first), first.sittings, options.gpus, price)]
    if second is not None:
        result.settings |= {"second_model": second.served.model, "second_weights": second.served.weights}
        blocks = any(question.kind == "block" for question in work.questions)
        add_dialects(result, first.served.ours, second.served.ours, options.completion_mode, blocks)
        filled = score(work.questions, work.texts(second))
        add_gap_comparison(result, scored, filled, _same_texts(work, first, second))
        if read and len(others := work.read(second)) == len(read):
            add_reading_comparison(result, read, others)
        gpus = options.compare_gpus or options.gpus
        costs.append(cost(work.answers(second), second.sittings, gpus, options.compare_price or price))
    add_costs(result, costs, options.requests)
    for one in (first, second):
        if one is not None and one.unread and work.pieces:
            result.tables.setdefault("no bits a byte", [("", "why")]).append((one.served.model, one.unread))


def _same_texts(work: Work, first: OwnRecord, second: OwnRecord) -> float:
    pairs = zip(work.answers(first), work.answers(second), strict=True)
    return sum(a.text == b.text for a, b in pairs) / len(work.questions)


def _title(selection: Selection) -> str:
    if selection.since is not None:
        return f"gaps in files that were first committed on {selection.since.isoformat()} or later"
    return "gaps in files of any age, which a model may have learned from where they are public"


def _check(options: argparse.Namespace) -> None:
    for name in ("gaps", "gaps_per_file", "before", "behind", "requests", "gpus", "compare_gpus"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is 1 or more, not {value}")
    if options.text < 0:
        raise ValueError(f"--text is 0, for none, or more, not {options.text}")
    if options.window < LEAST_WINDOW:
        raise ValueError(f"--window is {LEAST_WINDOW} characters or more, not {options.window}")
    if unknown := sorted(set(options.kinds) - set(KINDS)):
        raise ValueError(f"{', '.join(unknown)}: no kind of gaps; there are {', '.join(KINDS)}")
    if options.answers != SERVED and (options.sampling_only or options.compare):
        raise ValueError(f"--answers {options.answers} asks no server")


def _words(value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in value.split(",") if word.strip()))


def _price(value: str) -> Price:
    prices = [float(one) for one in value.split(",")]
    if len(prices) not in (1, 3) or not all(0 <= one < float("inf") for one in prices):
        raise ValueError(value)
    return Price(*(prices * 3 if len(prices) == 1 else prices))
