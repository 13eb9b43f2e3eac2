"""One run on a company's own code, from its files to figures: what there is already is not asked again."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks.quality.asking import Server
from benchmarks.quality.own.asking import AROUND_GAPS, Manner, ask_gaps, read_pieces, sitting
from benchmarks.quality.own.figures import Read
from benchmarks.quality.own.questions import Piece, Question
from benchmarks.quality.own.reading import NoLogprobs
from benchmarks.quality.own.record import Answer, OwnRecord, Reading
from benchmarks.quality.progress import Progress
from benchmarks.quality.served import Served, kept_of, look_at, tell
from benchmarks.server.completions import connect


@dataclass(frozen=True)
class Work:
    questions: Sequence[Question]
    pieces: Sequence[Piece]
    manner: Manner

    def settings(self, served: Served) -> dict[str, Any]:
        return {"benchmark": "own", **served.settings(), **self.manner.settings()}

    def missing(self, record: OwnRecord) -> tuple[list[Question], list[Piece]]:
        """Pieces of a server that scores no prompts are not missed."""
        pieces = [] if record.unread else [piece for piece in self.pieces if piece.id not in record.readings]
        return [question for question in self.questions if question.id not in record.answers], pieces

    def kept(self, record: OwnRecord) -> int:
        """Answers and readings that are there already."""
        answers = sum(question.id in record.answers for question in self.questions)
        return answers + sum(piece.id in record.readings for piece in self.pieces)

    def texts(self, record: OwnRecord) -> Mapping[str, str]:
        return {question.id: record.answers[question.id].text for question in self.questions}

    def answers(self, record: OwnRecord) -> list[Answer]:
        return [record.answers[question.id] for question in self.questions]

    def read(self, record: OwnRecord) -> list[Read]:
        """Nothing where a part was read, and then the server would not."""
        if record.unread:
            return []
        return [Read(piece, record.readings[piece.id]) for piece in self.pieces]


def asked(work: Work, folder: Path, options: argparse.Namespace) -> OwnRecord:
    """All answers and readings, those that were missing among them. With none missing, a server that answers is only
    asked for its model.

    Raises ValueError for a folder of another server or run, RuntimeError where the server fails.
    """
    record = OwnRecord(folder)
    questions, pieces = work.missing(record)
    left, kept = len(questions) + len(pieces), work.kept(record)
    if left:
        asyncio.run(_ask(work, record, options))
    else:
        record.begin(work.settings(kept_of(options, record.served)))
    tell(folder, record.served, left, kept)
    return record


async def _ask(work: Work, record: OwnRecord, options: argparse.Namespace) -> None:
    async with connect(options) as client:
        served = await look_at(client, options.served_model)
        server = Server(client, served.model, around_gaps=AROUND_GAPS)
        await server.look()
        record.begin(work.settings(replace(served, ours=server.ours)))
        await _gaps(work, record, client, server, served.window)
        await _pieces(work, record, server)


async def _gaps(work: Work, record: OwnRecord, client: httpx.AsyncClient, server: Server, window: int | None) -> None:
    questions, _ = work.missing(record)
    done = len(work.questions) - len(questions)
    async with sitting(client, record):
        with Progress("gaps", len(work.questions), done) as progress:

            def came(question: Question, answer: Answer) -> None:
                record.add_answer(question, answer)
                progress.add()

            await ask_gaps(server, questions, work.manner, window, came)


async def _pieces(work: Work, record: OwnRecord, server: Server) -> None:
    _, pieces = work.missing(record)
    if not pieces:
        return
    with Progress("pieces read", len(work.pieces), len(work.pieces) - len(pieces)) as progress:

        def came(reading: Reading) -> None:
            record.add_reading(reading)
            progress.add()

        try:
            await read_pieces(server, pieces, work.manner, came)
        except NoLogprobs as error:
            record.leave_unread(str(error))
