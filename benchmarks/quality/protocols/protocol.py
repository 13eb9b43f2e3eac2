"""What a benchmark is: problems with a prompt each, how answers are drawn, and when one is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.quality.sandbox.program import Command, Limits, Program

Row = Mapping[str, Any]
"""One problem, as the data has it."""


@dataclass(frozen=True)
class Execution:
    """An answer is right if `before`, the answer and `after` are a program that comes to its end.

    quoted: the answer is put there as a Python string, without white space at both ends. commands: of another language
    than Python, what compiles and runs `file`.
    """

    before: str
    after: str
    quoted: bool = False
    limits: Limits = field(default_factory=Limits)
    packages: bool = False
    file: str = ""
    commands: tuple[Command, ...] = ()

    def program(self, answer: str) -> Program:
        text = self.before + (repr(answer.strip()) if self.quoted else answer) + self.after
        return Program(text, self.limits, self.packages, self.file, self.commands)


@dataclass(frozen=True)
class Problem:
    """group: the language or library, of which there is a figure. suffix: where a gap is filled.

    canonical: what is known to be right, where the data says it. execution: None where only `canonical` is right, white
    space at both ends aside.
    """

    id: str
    group: str
    prompt: str
    stops: tuple[str, ...]
    canonical: str | None
    suffix: str | None = None
    execution: Execution | None = None

    def cut(self, text: str) -> str:
        """What stands before the first stop, as the server cuts it; some servers take four stops at most."""
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        return text[: min(found)] if found else text


@dataclass(frozen=True)
class Protocol:
    """samples: a problem, by default. total_tokens: of prompt and answer together; new_tokens: of the answer.

    size: problems of the data that the published figures are of. groups: to choose one from, where the data has one
    file each. files: names that the data may have, of which `{group}` is a part. sha256: of that file, where known.
    package: which ships it. problems: from rows of the data. executes: whether answers are run, not compared.
    score: what the figure is.
    """

    name: str
    title: str
    samples: int
    size: int | None
    files: tuple[str, ...]
    problems: Callable[[Sequence[Row]], list[Problem]]
    total_tokens: int | None = None
    new_tokens: int | None = None
    temperature: float = 0.2
    top_p: float = 0.95
    groups: tuple[str, ...] = ()
    sha256: str | None = None
    package: str | None = None
    executes: bool = True
    score: str = "pass@1"


def text(row: Row, *names: str) -> str:
    """A field by the first of its names that is there. Raises ValueError where the data is another benchmark's."""
    for name in names:
        if isinstance(value := row.get(name), str):
            return value
    raise ValueError(f"a problem of the data has no text {names[0]!r}: it has {', '.join(row)}")
