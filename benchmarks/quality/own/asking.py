"""Gaps and pieces of text, asked of an OpenAI-compatible server; each answer is kept as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from benchmarks.quality.asking import Refused, Server, Timed, TooLong
from benchmarks.quality.at_once import at_once
from benchmarks.quality.own.questions import Piece, Question, boundary
from benchmarks.quality.own.reading import NoLogprobs, body, reading
from benchmarks.quality.own.record import Answer, OwnRecord, Reading, Sitting, Spent
from benchmarks.server.server_counters import growth, read_counters
from monitoring.metrics import STEP_PHASE_TIME

OF_A_LINE, OF_A_BLOCK = 128, 512
"""Tokens of an answer, at most, whatever is missing: its length is nothing that an editor knows."""
SHARE_OF_THE_WINDOW = 4
AROUND_GAPS = {"truncate_prompt_tokens": -1}
"""Ours cuts what does not fit where it cuts it for editors."""
STEPS = STEP_PHASE_TIME.name
_HALVINGS = 6


@dataclass(frozen=True)
class Manner:
    """How it is asked. completion_mode: of blocks, where the server knows such a thing. requests: open at once."""

    completion_mode: str = "auto"
    temperature: float = 0.0
    seed: int = 0
    requests: int = 4

    def settings(self) -> dict[str, Any]:
        """What makes answers, and what they cost, what they are."""
        return {
            "completion_mode": self.completion_mode,
            "temperature": self.temperature,
            "seed": self.seed if self.temperature else None,
            "tokens_of_a_line": OF_A_LINE,
            "tokens_of_a_block": OF_A_BLOCK,
            "requests": self.requests,
        }


def question_body(question: Question, manner: Manner, ours: bool, window: int | None) -> dict[str, Any]:
    """window: of the model, in tokens, where the server tells; of a small one an answer gets a quarter, at most."""
    whole = question.kind == "block"
    tokens = OF_A_BLOCK if whole else OF_A_LINE
    asked: dict[str, Any] = {
        "prompt": question.prefix,
        "suffix": question.suffix,
        "max_tokens": tokens if window is None else max(1, min(tokens, window // SHARE_OF_THE_WINDOW)),
        "temperature": manner.temperature,
    }
    if manner.temperature:
        asked["seed"] = manner.seed
    if not whole:
        asked["stop"] = "\n"
    elif ours and manner.completion_mode != "raw":
        asked |= {"completion_mode": manner.completion_mode, "language": question.language}
    return asked


async def ask_gaps(
    server: Server,
    questions: Sequence[Question],
    manner: Manner,
    window: int | None,
    came: Callable[[Question, Answer], None],
) -> None:
    """Raises RuntimeError where one is refused for good."""

    async def ask(question: Question) -> None:
        found = await _fitting(server, question_body(question, manner, server.ours, window))
        came(question, Answer(question.id, found.answer["choices"][0]["text"], _spent(found)))

    await at_once(manner.requests, questions, ask)


async def _fitting(server: Server, asked: dict[str, Any]) -> Timed:
    """Half as far around the gap, where a server has no room for all of it."""
    for _ in range(_HALVINGS):
        try:
            return await server.timed(asked)
        except TooLong:
            prefix, suffix = asked["prompt"], asked["suffix"]
            asked = {**asked, "prompt": prefix[len(prefix) // 2 :], "suffix": suffix[: len(suffix) // 2]}
    return await server.timed(asked)


async def read_pieces(server: Server, pieces: Sequence[Piece], manner: Manner, came: Callable[[Reading], None]) -> None:
    """Raises NoLogprobs where the server does not tell them, RuntimeError where it does not answer."""

    async def read(piece: Piece) -> None:
        came(await _reading(server, piece))

    await at_once(manner.requests, pieces, read)


async def _reading(server: Server, piece: Piece) -> Reading:
    """Where a server has no room for all of it, with less before what is scored; without that, in two parts."""
    try:
        return reading(piece, await server.complete(body(piece, server.ours)))
    except TooLong:
        if piece.begin:
            left = piece.begin // 2
            found = await _reading(server, replace(piece, text=piece.text[piece.begin - left :], begin=left))
            return replace(found, shortened=True)
        if len(piece.text) < 2:
            raise RuntimeError("the server has no room for a single character") from None
        half = boundary(piece.text, 0, len(piece.text) // 2)
        first = await _reading(server, replace(piece, text=piece.text[:half]))
        return replace(first + await _reading(server, replace(piece, begin=half)), shortened=True)
    except Refused as refused:
        if refused.status in (400, 404, 422, 501):
            raise NoLogprobs(f"the server does not score prompts ({refused})") from None
        raise


@asynccontextmanager
async def sitting(client: httpx.AsyncClient, record: OwnRecord) -> AsyncIterator[None]:
    """Notes what the server's engines did meanwhile, also where it breaks off."""
    before, there = await read_counters(client, [STEPS]), len(record.answers)
    try:
        yield
    finally:
        if asked := len(record.answers) - there:
            grown = growth(before, await read_counters(client, [STEPS])).get(STEPS)
            record.add_sitting(Sitting(asked, grown))


def _spent(found: Timed) -> Spent:
    usage = found.answer.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return Spent(
        usage.get("prompt_tokens") or 0,
        details.get("cached_tokens") or 0,
        usage.get("completion_tokens") or 0,
        found.began,
        found.ended,
    )
