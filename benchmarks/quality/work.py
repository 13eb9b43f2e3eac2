"""One benchmark, from its problems to verdicts: what there is already is neither asked nor executed again."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.quality.asking import Server
from benchmarks.quality.figures import Answers
from benchmarks.quality.progress import Progress
from benchmarks.quality.protocols.protocol import Problem, Protocol
from benchmarks.quality.record import Key, Record, Sample, Settings
from benchmarks.quality.sampling import Ask, Drawing, missing, sample
from benchmarks.quality.sandbox.judge import Sandbox, Verdict
from benchmarks.quality.scoring import score
from benchmarks.quality.served import Served, kept_of, look_at, tell
from benchmarks.server.completions import connect

CANONICAL, EMPTY = "canonical", "empty"


@dataclass(frozen=True)
class Work:
    """sha256: of the data. sandbox: None where nothing is executed. at_once: programs that run."""

    protocol: Protocol
    problems: Sequence[Problem]
    sha256: str
    drawing: Drawing
    sandbox: Sandbox | None
    at_once: int

    @property
    def keys(self) -> list[list[Key]]:
        """Of each problem."""
        return [[(p.id, seed) for seed in self.drawing.seeds(at)] for at, p in enumerate(self.problems)]

    def settings(self, served: Served) -> Settings:
        drawing = self.drawing
        return Settings(self.protocol.name, served, self.sha256, drawing.seed, drawing.temperature, drawing.top_p)


def known(work: Work, which: str) -> Answers:
    """Of `CANONICAL` or `EMPTY`. Raises ValueError where the data has no solutions."""
    texts = [problem.canonical if which == CANONICAL else "" for problem in work.problems]
    if None in texts:
        raise ValueError("this data has no solutions")
    samples = [Sample(problem.id, 0, text or "") for problem, text in zip(work.problems, texts, strict=True)]
    verdicts: dict[Key, Verdict] = {}
    _score(work, samples, verdicts.__setitem__, done=0)
    return Answers([[one.key] for one in samples], {one.key: one for one in samples}, verdicts)


def sampled(work: Work, folder: Path, options: argparse.Namespace) -> Record:
    """The answers in a folder, those that were missing among them. With none missing, a server that answers is only
    asked for its model.

    Raises ValueError for a folder of another server or run, RuntimeError where the server fails.
    """
    record = Record(folder)
    asks = missing(work.problems, work.drawing, record.samples.__contains__)
    if asks:
        asyncio.run(_ask(work, record, asks, options))
    else:
        record.begin(work.settings(kept_of(options, record.served)))
    left = sum(ask.choices for ask in asks)
    tell(folder, record.served, left, sum(map(len, work.keys)) - left)
    return record


async def _ask(work: Work, record: Record, asks: Sequence[Ask], options: argparse.Namespace) -> None:
    there = len(record.samples)
    async with connect(options) as client:
        served = await look_at(client, options.served_model)
        server = Server(client, served.model)
        await server.look()
        record.begin(work.settings(replace(served, ours=server.ours)))
        with Progress("answers", there + sum(ask.choices for ask in asks), there) as progress:

            def came(samples: list[Sample]) -> None:
                record.add_samples(samples)
                progress.add(len(samples))

            await sample(server, work.protocol, work.drawing, asks, came)


def scored(work: Work, record: Record) -> Answers:
    """With what was scored before."""
    every = [key for keys in work.keys for key in keys]
    left = [record.samples[key] for key in every if key not in record.verdicts]
    _score(work, left, record.add_verdict, done=len(every) - len(left))
    return Answers(work.keys, record.samples, record.verdicts)


def _score(work: Work, samples: Sequence[Sample], keep: Callable[[Key, Verdict], None], done: int) -> None:
    with Progress("scored", done + len(samples), done) as progress:

        def came(key: Key, verdict: Verdict) -> None:
            keep(key, verdict)
            progress.add()

        score({problem.id: problem for problem in work.problems}, samples, work.sandbox, work.at_once, came)
