"""What a run on a company's own code has so far: answers and readings by what they are of.

An answer stands beside what was missing, for people who look at it. Whoever moves a file, or asks for more, asks only
what is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.own.questions import Question
from benchmarks.quality.run_folder import RunFolder
from benchmarks.quality.served import Served

ANSWERS, READINGS, SITTINGS, UNREAD = (f"{name}.jsonl" for name in ("answers", "readings", "sittings", "unread"))
SHOWN = ("path", "line", "language", "kind", "missing")
"""Of the question, beside its answer."""


@dataclass(frozen=True)
class Spent:
    """By one request: tokens as the server counts them, 0 where it does not; from when to when, in Unix seconds."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    began: float
    ended: float


@dataclass(frozen=True)
class Answer:
    id: str
    text: str
    spent: Spent


@dataclass(frozen=True)
class Reading:
    """bits: that the model needed for so many bytes of the file, in so many tokens of its own. shortened: with less
    before it than others see, since the server has no room for all of the piece: such bits are more.
    """

    id: str
    bits: float
    bytes: int
    tokens: int
    shortened: bool = False

    def __add__(self, other: Reading) -> Reading:
        """Of one piece in two parts."""
        bits, size, tokens = self.bits + other.bits, self.bytes + other.bytes, self.tokens + other.tokens
        return Reading(self.id, bits, size, tokens, self.shortened or other.shortened)


@dataclass(frozen=True)
class Sitting:
    """One time that gaps were asked. engine_seconds: of the server's steps meanwhile, whoever they were for; None
    where it does not tell.
    """

    requests: int
    engine_seconds: float | None


class OwnRecord:
    """answers, readings: by id. unread: why the server scores no prompts, where it was found not to; it is not asked
    for that again while the file is there.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = RunFolder(directory)
        self.answers = {
            line["id"]: Answer(line["id"], line["text"], Spent(**line["spent"])) for line in self._folder.read(ANSWERS)
        }
        self.readings = {line["id"]: Reading(**line) for line in self._folder.read(READINGS)}
        self.sittings = [Sitting(**line) for line in self._folder.read(SITTINGS)]
        self.unread = next((str(line["why"]) for line in self._folder.read(UNREAD)), None)

    @property
    def served(self) -> Served:
        """Whose answers these are. Raises ValueError where nothing was asked yet."""
        return self._folder.served

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Raises ValueError where the folder has what was asked in another way."""
        self._folder.begin(settings)

    def add_answer(self, question: Question, answer: Answer) -> None:
        self.answers[answer.id] = answer
        self._folder.append(ANSWERS, {**{name: getattr(question, name) for name in SHOWN}, **asdict(answer)})

    def add_reading(self, reading: Reading) -> None:
        self.readings[reading.id] = reading
        self._folder.append(READINGS, asdict(reading))

    def add_sitting(self, sitting: Sitting) -> None:
        self.sittings.append(sitting)
        self._folder.append(SITTINGS, asdict(sitting))

    def leave_unread(self, why: str) -> None:
        self.unread = why
        self._folder.append(UNREAD, {"why": why})
