"""Answers of a server to the problems of a benchmark, drawn as its protocol says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.quality.asking import Server, TooLong
from benchmarks.quality.at_once import at_once
from benchmarks.quality.protocols.protocol import Problem, Protocol
from benchmarks.quality.record import Key, Sample

MOST_SAMPLES = 1000
"""A problem. So many seeds are its own, however many are drawn: a run may be continued with more."""


@dataclass(frozen=True)
class Drawing:
    """samples: a problem. choices: of one request, at most. requests: open at once."""

    samples: int
    choices: int
    requests: int
    seed: int
    temperature: float
    top_p: float

    def seeds(self, number: int) -> range:
        """Of a problem, by its place in the data."""
        first = self.seed + number * MOST_SAMPLES
        return range(first, first + self.samples)


@dataclass(frozen=True)
class Ask:
    """One request: answer i draws with `seed` + i."""

    problem: Problem
    seed: int
    choices: int


def missing(problems: Sequence[Problem], drawing: Drawing, there: Callable[[Key], bool]) -> list[Ask]:
    """What is left to ask: runs of neighbouring seeds, of which a request asks for `choices` at most."""
    return [
        ask for number, problem in enumerate(problems) for ask in _asks(problem, drawing, drawing.seeds(number), there)
    ]


def _asks(problem: Problem, drawing: Drawing, seeds: range, there: Callable[[Key], bool]) -> Iterator[Ask]:
    run: list[int] = []
    for seed in seeds:
        if there((problem.id, seed)):
            if run:
                yield Ask(problem, run[0], len(run))
            run = []
            continue
        run.append(seed)
        if len(run) == drawing.choices:
            yield Ask(problem, run[0], len(run))
            run = []
    if run:
        yield Ask(problem, run[0], len(run))


async def sample(
    server: Server,
    protocol: Protocol,
    drawing: Drawing,
    asks: Sequence[Ask],
    came: Callable[[list[Sample]], None],
) -> None:
    """Calls `came` with the answers of each request. Raises RuntimeError where one is refused for good."""
    rooms: dict[str, asyncio.Future[int]] = {}

    async def work(ask: Ask) -> None:
        tokens = await _room(server, protocol, ask.problem, rooms)
        came(await _answers(server, drawing, ask, tokens))

    await at_once(drawing.requests, asks, work)


async def _room(server: Server, protocol: Protocol, problem: Problem, rooms: dict[str, asyncio.Future[int]]) -> int:
    """Tokens of an answer, at most; asked once a problem."""
    if problem.id not in rooms:
        rooms[problem.id] = asyncio.ensure_future(_tokens(server, protocol, problem))
    return await rooms[problem.id]


async def _tokens(server: Server, protocol: Protocol, problem: Problem) -> int:
    """What the protocol gives an answer, as far as the window has room. A server that does not tell its window refuses
    what is too long.
    """
    if protocol.new_tokens is not None and not server.ours:
        return protocol.new_tokens
    try:
        prompt, left = await server.room(prompt_of(problem))
    except TooLong:
        return 0
    wanted = protocol.total_tokens - prompt if protocol.total_tokens is not None else protocol.new_tokens
    assert wanted is not None
    return max(0, wanted if left is None else min(wanted, left))


async def _answers(server: Server, drawing: Drawing, ask: Ask, tokens: int) -> list[Sample]:
    """Empty ones where there is no room: the published figures count such a problem as not solved."""
    try:
        texts = await _texts(server, drawing, ask, tokens) if tokens else None
    except TooLong:
        texts = None
    found = [""] * ask.choices if texts is None else texts
    return [Sample(ask.problem.id, ask.seed + i, ask.problem.cut(text)) for i, text in enumerate(found)]


async def _texts(server: Server, drawing: Drawing, ask: Ask, tokens: int) -> list[str]:
    choices = (await server.complete(body_of(ask, drawing, tokens)))["choices"]
    if sorted(choice["index"] for choice in choices) != list(range(ask.choices)):
        raise RuntimeError(f"the server was asked for {ask.choices} answers and gave {len(choices)}: try --choices 1")
    return [choice["text"] for choice in sorted(choices, key=lambda choice: choice["index"])]


def prompt_of(problem: Problem) -> dict[str, Any]:
    return (
        {"prompt": problem.prompt} if problem.suffix is None else {"prompt": problem.prompt, "suffix": problem.suffix}
    )


def body_of(ask: Ask, drawing: Drawing, tokens: int) -> dict[str, Any]:
    return {
        **prompt_of(ask.problem),
        "max_tokens": tokens,
        "temperature": drawing.temperature,
        "top_p": drawing.top_p,
        "n": ask.choices,
        "seed": ask.seed,
        "stop": list(ask.problem.stops),
    }
