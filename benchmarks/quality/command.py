"""`python -m benchmarks quality BENCHMARK`: how good answers are, by published protocols, or in code of one's own."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.quality.data import Data, load
from benchmarks.quality.figures import Against, add_comparison, report
from benchmarks.quality.own import command as own
from benchmarks.quality.protocols.protocol import Protocol
from benchmarks.quality.protocols.registry import PROTOCOLS
from benchmarks.quality.sampling import MOST_SAMPLES, Drawing
from benchmarks.quality.sandbox.choice import FINDERS, choose
from benchmarks.quality.second_server import add_second_server_arguments, second_server
from benchmarks.quality.work import CANONICAL, EMPTY, Work, known, sampled, scored
from benchmarks.report import Result, add_output_arguments
from benchmarks.server.completions import add_server_arguments

PICTURE = "scores with their intervals"

RUNS = Path("runs/quality")
SERVED = "served"
OWN = "own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each benchmark: the company's own code is asked for in another way than published ones."""
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")

    def add(name: str, title: str) -> argparse.ArgumentParser:
        one = benchmarks.add_parser(name, help=title, description=title, formatter_class=parser.formatter_class)
        add_output_arguments(one, PICTURE, default=argparse.SUPPRESS)
        return one

    for protocol in PROTOCOLS.values():
        _add_published(add(protocol.name, protocol.title))
    own.add_arguments(add(OWN, "gaps in code of your own, and how well its text is foreseen"), RUNS)


def _add_published(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="folder with the data, where no package ships it")
    parser.add_argument("--group", help="MultiPL-E's language; which gaps of HumanEval-infilling")
    parser.add_argument("--problems", type=int, help="the first so many, not all")
    parser.add_argument("--samples", type=int, help="answers to each problem (default: as published)")
    parser.add_argument("--temperature", type=float, help="(default: as published)")
    parser.add_argument("--top-p", type=float, help="(default: as published)")
    parser.add_argument("--seed", type=int, default=0, help="of the first answer; all others follow from it")
    parser.add_argument(
        "--answers",
        choices=(SERVED, CANONICAL, EMPTY),
        default=SERVED,
        help="score what needs no server, to see that the scoring is right: the data's solutions, or nothing",
    )
    parser.add_argument(
        "--run", dest="directory", type=Path, help=f"where answers are kept (default: {RUNS}/BENCHMARK)"
    )
    parser.add_argument("--sampling-only", action="store_true", help="ask, and execute nothing; a second run scores")
    parser.add_argument(
        "--published-as", metavar="MODEL", help="whose figures stand beside (default: the served model's)"
    )
    sandboxes = parser.add_argument_group("sandbox")
    sandboxes.add_argument("--sandbox", choices=list(FINDERS), help="(default: the first that works here)")
    sandboxes.add_argument("--sandboxes", type=int, default=os.cpu_count() or 1, help="programs that run at once")
    add_server_arguments(parser)
    parser.add_argument("--choices", type=int, default=100, help="answers that one request asks for, at most")
    parser.add_argument("--requests", type=int, default=4, help="requests that are open at once")
    add_second_server_arguments(parser)


def run(options: argparse.Namespace) -> Result:
    """Raises ValueError for data, options or a folder that do not fit, RuntimeError where server or sandbox fail."""
    if options.benchmark == OWN:
        return own.run(options)
    protocol = PROTOCOLS[options.benchmark]
    _check(options, protocol)
    data = load(protocol, options.data, options.group)
    work = Work(
        protocol,
        data.problems[: options.problems],
        data.sha256,
        _drawing(options, protocol),
        choose(options.sandbox) if protocol.executes and not options.sampling_only else None,
        options.sandboxes,
    )
    if options.answers == SERVED:
        model, result = _served(options, work, _unlike(options, protocol, data))
    else:
        model, result = (
            options.answers,
            report(protocol, work.problems, known(work, options.answers), Against(None, None)),
        )
    result.settings = {
        "model": model,
        "group": options.group,
        "samples": work.drawing.samples if options.answers == SERVED else 1,
        "temperature": work.drawing.temperature,
        "top_p": work.drawing.top_p,
        "seed": work.drawing.seed,
        "data_sha256": data.sha256,
        "sandbox": work.sandbox.name if work.sandbox else None,
    }
    return result


def _served(options: argparse.Namespace, work: Work, unlike: str | None) -> tuple[str, Result]:
    """The model, and what its answers come to; a second server's beside them, where there is one."""
    protocol, problems = work.protocol, work.problems
    folder = options.directory or RUNS / "-".join(filter(None, [protocol.name, options.group]))
    first = sampled(work, folder, options)
    second = sampled(work, folder / "compared", second_server(options)) if options.compare else None
    model = first.served.model
    if options.sampling_only:
        asked = [len(run.samples) for run in (first, second) if run is not None]
        return model, Result(f"quality {protocol.name}", {}, {"answers": sum(asked)})
    answers = scored(work, first)
    result = report(protocol, problems, answers, Against(options.published_as or model, unlike))
    if second is not None:
        add_comparison(result, protocol, answers, scored(work, second))
    return model, result


def _check(options: argparse.Namespace, protocol: Protocol) -> None:
    for name in ("problems", "samples", "choices", "requests", "sandboxes"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name} is 1 or more, not {value}")
    if (options.samples or protocol.samples) > MOST_SAMPLES:
        raise ValueError(f"--samples is {MOST_SAMPLES} at most")
    if options.answers != SERVED and (options.sampling_only or options.compare):
        raise ValueError(f"--answers {options.answers} asks no server")


def _drawing(options: argparse.Namespace, protocol: Protocol) -> Drawing:
    return Drawing(
        samples=options.samples or protocol.samples,
        choices=options.choices,
        requests=options.requests,
        seed=options.seed,
        temperature=protocol.temperature if options.temperature is None else options.temperature,
        top_p=protocol.top_p if options.top_p is None else options.top_p,
    )


def _unlike(options: argparse.Namespace, protocol: Protocol, data: Data) -> str | None:
    """What keeps our figure and the published one apart, whatever the model does."""
    drawing = _drawing(options, protocol)
    if not data.published:
        return "other data"
    if options.problems is not None and options.problems < len(data.problems):
        return "part of the data"
    if (drawing.temperature, drawing.top_p) != (protocol.temperature, protocol.top_p):
        return "other sampling"
    return None
