"""`python -m benchmarks quality BENCHMARK`: how good a server's answers are, by the protocols of published figures."""

from __future__ import annotations

import argparse
import asyncio
import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.quality.asking import Server
from benchmarks.quality.data import Data, load
from benchmarks.quality.figures import Against, Answers, add_comparison, report
from benchmarks.quality.progress import Progress
from benchmarks.quality.protocols.protocol import Problem, Protocol
from benchmarks.quality.protocols.registry import PROTOCOLS
from benchmarks.quality.record import Key, Record, Sample, Settings
from benchmarks.quality.sampling import MOST_SAMPLES, Ask, Drawing, missing, sample
from benchmarks.quality.sandbox.choice import FINDERS, choose
from benchmarks.quality.sandbox.judge import Sandbox, Verdict
from benchmarks.quality.scoring import score
from benchmarks.report import Result
from benchmarks.server.completions import add_server_arguments, check_server, connect

RUNS = Path("runs/quality")
SERVED, CANONICAL, EMPTY = "served", "canonical", "empty"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", choices=list(PROTOCOLS))
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
    second = parser.add_argument_group("a second server, compared in pairs with the same seeds")
    second.add_argument("--compare", metavar="URL")
    second.add_argument("--compare-model", metavar="MODEL")
    second.add_argument("--compare-api-key", metavar="KEY")


def run(options: argparse.Namespace) -> Result:
    """Raises ValueError for data, options or a folder that do not fit, RuntimeError where server or sandbox fail."""
    protocol = PROTOCOLS[options.benchmark]
    _check(options, protocol)
    data = load(protocol, options.data, options.group)
    problems = data.problems[: options.problems]
    sandbox = choose(options.sandbox) if protocol.executes and not options.sampling_only else None
    drawing = _drawing(options, protocol)
    if options.answers != SERVED:
        answers, model = _known(problems, options.answers, sandbox, options.sandboxes), options.answers
        result = report(protocol, problems, answers, Against(None, None))
    else:
        folder = options.directory or RUNS / "-".join(filter(None, [protocol.name, options.group]))
        sampled = [_sampled(options, protocol, data, problems, drawing, folder)]
        if options.compare is not None:
            sampled.append(_sampled(_second(options), protocol, data, problems, drawing, folder / "compared"))
        model = sampled[0][0].model
        if options.sampling_only:
            result = Result(f"quality {protocol.name}", {}, {"answers": sum(len(r.samples) for _, r in sampled)})
        else:
            keys = [[(p.id, seed) for seed in drawing.seeds(at)] for at, p in enumerate(problems)]
            first, *others = [_scored(problems, keys, record, sandbox, options.sandboxes) for _, record in sampled]
            against = Against(options.published_as or model, _unlike(options, protocol, data))
            result = report(protocol, problems, first, against)
            for other in others:
                add_comparison(result, first, other)
    result.settings = {
        "model": model,
        "group": options.group,
        "samples": drawing.samples if options.answers == SERVED else 1,
        "temperature": drawing.temperature,
        "top_p": drawing.top_p,
        "seed": drawing.seed,
        "data_sha256": data.sha256,
        "sandbox": sandbox.name if sandbox else None,
    }
    return result


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


def _second(options: argparse.Namespace) -> argparse.Namespace:
    second = copy.copy(options)
    second.url, second.served_model, second.api_key = options.compare, options.compare_model, options.compare_api_key
    return second


def _known(problems: Sequence[Problem], which: str, sandbox: Sandbox | None, at_once: int) -> Answers:
    """Raises ValueError where the data has no solutions."""
    texts = [problem.canonical if which == CANONICAL else "" for problem in problems]
    if None in texts:
        raise ValueError("this data has no solutions")
    samples = [Sample(problem.id, 0, text or "") for problem, text in zip(problems, texts, strict=True)]
    verdicts: dict[Key, Verdict] = {}
    with Progress("scored", len(samples)) as progress:

        def came(key: Key, verdict: Verdict) -> None:
            verdicts[key] = verdict
            progress.add()

        score({problem.id: problem for problem in problems}, samples, sandbox, at_once, came)
    return Answers([[one.key] for one in samples], {one.key: one for one in samples}, verdicts)


def _sampled(
    options: argparse.Namespace,
    protocol: Protocol,
    data: Data,
    problems: Sequence[Problem],
    drawing: Drawing,
    folder: Path,
) -> tuple[Settings, Record]:
    """What there is, and what was missing; the server is not asked where nothing is."""
    record = Record(folder)
    wanted = Settings(
        protocol.name, options.served_model or "", data.sha256, drawing.seed, drawing.temperature, drawing.top_p
    )
    asks = missing(problems, drawing, record.samples.__contains__)
    if (old := record.settings()) is not None and not asks:
        settings = replace(wanted, model=options.served_model or old.model)
        record.begin(settings)
        return settings, record
    return asyncio.run(_ask(options, protocol, drawing, wanted, record, asks)), record


async def _ask(
    options: argparse.Namespace,
    protocol: Protocol,
    drawing: Drawing,
    wanted: Settings,
    record: Record,
    asks: Sequence[Ask],
) -> Settings:
    total = sum(ask.choices for ask in asks) + len(record.samples)
    async with connect(options) as client:
        await check_server(client)
        model = options.served_model or (await client.get("/v1/models")).json()["data"][0]["id"]
        settings = replace(wanted, model=model)
        record.begin(settings)
        server = Server(client, model)
        await server.look()
        with Progress("answers", total, len(record.samples)) as progress:

            def came(samples: list[Sample]) -> None:
                record.add_samples(samples)
                progress.add(len(samples))

            await sample(server, protocol, drawing, asks, came)
    return settings


def _scored(
    problems: Sequence[Problem], keys: list[list[Key]], record: Record, sandbox: Sandbox | None, at_once: int
) -> Answers:
    """With what was scored before."""
    every = [key for own in keys for key in own]
    left = [record.samples[key] for key in every if key not in record.verdicts]
    with Progress("scored", len(every), len(every) - len(left)) as progress:

        def came(key: Key, verdict: Verdict) -> None:
            record.add_verdict(key, verdict)
            progress.add()

        score({problem.id: problem for problem in problems}, left, sandbox, at_once, came)
    verdicts = {key: Verdict(record.verdicts[key].passed, record.verdicts[key].why) for key in every}
    return Answers(keys, record.samples, verdicts)
