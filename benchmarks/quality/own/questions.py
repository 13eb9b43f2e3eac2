"""What is asked about the files: gaps to fill, and pieces of text to foresee. The same seed asks the same."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.quality.code_gaps import KINDS, Around, cut, worth_asking
from benchmarks.quality.own.files import Selection, SourceFile

ASKED = ("line", "block")
"""Kinds of gaps; the rest of a line can be asked for as well."""
WIDE = Around(6000, 2000)
LONGEST_LINE, LONGEST_BLOCK = 200, 1200
"""Characters of what is missing: what is longer is data more often than code."""
MOST_OF_A_FILE = 24_000
"""Characters, from its beginning on, that are read of one file."""

_SPECIAL = re.compile(
    r"<\|?(?:endoftext|fim[_-](?:prefix|middle|suffix|pad)|filename|reponame|gh_stars|file_sep|empty_output"
    r"|(?:issue|jupyter|commit)_\w+)\|?>"
)
"""Such a text, read as a prompt, counts as the token that it spells."""


@dataclass(frozen=True)
class Sample:
    """gaps: of each language and kind, of which `per_file` are of one file, at most. text: characters of each language
    that are read, 0 for none. window: characters of a piece, of which about half are scored.
    """

    kinds: tuple[str, ...] = ASKED
    gaps: int = 200
    per_file: int = 4
    around: Around = WIDE
    text: int = 100_000
    window: int = 4096
    seed: int = 0


@dataclass(frozen=True)
class Question:
    """A gap. id: by all that the answer depends on. file: its key. line: from 1."""

    id: str
    file: str
    path: str
    line: int
    language: str
    kind: str
    prefix: str
    missing: str
    suffix: str


@dataclass(frozen=True)
class Piece:
    """text: what the server reads. begin: from which character on it is scored; what is before that is context."""

    id: str
    file: str
    path: str
    language: str
    text: str
    begin: int


def questions(selection: Selection, sample: Sample) -> list[Question]:
    """Of each language and kind; fewer than wanted where the files have no more."""
    return [
        question
        for language in selection.languages
        for kind in sample.kinds
        for question in _of(selection.of(language), kind, sample)
    ]


def _of(files: Sequence[SourceFile], kind: str, sample: Sample) -> list[Question]:
    """In turns: one of each file, then a second of each, so that many files are seen before one is seen twice."""
    found: dict[str, Question] = {}
    waiting = [_gaps(file, kind, sample) for file in shuffled(files, sample.seed)]
    for _ in range(sample.per_file):
        for gaps in waiting:
            if (question := next(gaps, None)) is not None:
                found.setdefault(question.id, question)
                if len(found) == sample.gaps:
                    return list(found.values())
    return list(found.values())


def shuffled(files: Sequence[SourceFile], seed: int) -> list[SourceFile]:
    """In an order that each file has a place in by itself: one more file moves no other."""
    return sorted(files, key=lambda file: (_digest(seed, file.key), file.path))


def _gaps(file: SourceFile, kind: str, sample: Sample) -> Iterator[Question]:
    """Of one file, in random order, no two at the same line."""
    generator = random.Random(_digest(sample.seed, kind, file.key))
    lines = file.text.split("\n")
    longest = LONGEST_BLOCK if kind == "block" else LONGEST_LINE
    for at in generator.sample(range(len(lines)), len(lines)):
        hole = KINDS[kind](lines, at, file.path, generator)
        if hole is None:
            continue
        missing = sum(len(line) + 1 for line in lines[hole.first : hole.last + 1])
        if missing > longest:
            continue
        gap = cut(file.path, lines, hole, sample.around)
        if worth_asking(gap.missing):
            id = _digest(file.language, kind, gap.prefix, gap.missing, gap.suffix)
            yield Question(id, file.key, file.path, at + 1, file.language, kind, gap.prefix, gap.missing, gap.suffix)


def pieces(selection: Selection, sample: Sample) -> list[Piece]:
    """Whole files, up to `MOST_OF_A_FILE` of each, in random order, until there is enough text of each language.

    Files that name special tokens are passed over: `naming_special_tokens` counts them.
    """
    found: list[Piece] = []
    for language in selection.languages:
        left = sample.text
        for file in shuffled(selection.of(language), sample.seed):
            if left <= 0:
                break
            if _SPECIAL.search(file.text):
                continue
            text = file.text[: min(left, MOST_OF_A_FILE)]
            left -= len(text)
            found += _pieces(file, text, sample.window)
    return found


def naming_special_tokens(selection: Selection) -> int:
    """Files that name special tokens."""
    return sum(_SPECIAL.search(file.text) is not None for file in selection.files)


def _pieces(file: SourceFile, text: str, window: int) -> Iterator[Piece]:
    """Each character is scored in one piece, with up to half a window of the file before it, or more."""
    begin = 0
    while begin < len(text):
        end = boundary(text, begin, begin + (window if begin == 0 else max(1, window // 2)))
        start = max(0, end - window)
        if start:  # from the beginning of a line, unless that is far
            start = text.find("\n", start, (start + begin) // 2) + 1 or start
        read, context = text[start:end], begin - start
        yield Piece(_digest(file.language, context, read), file.key, file.path, file.language, read, context)
        begin = end


def boundary(text: str, begin: int, limit: int) -> int:
    """Where a piece ends that may go up to `limit`: before a line end that follows something, if there is one.

    There a word ends in every tokenizer's eyes, and the blanks that begin the next line are one word: both sides have
    the tokens that they have in the whole.
    """
    if limit >= len(text):
        return len(text)
    at = limit
    while (at := text.rfind("\n", begin + 1, at)) > begin:
        if not text[at - 1].isspace():
            return at
    return limit


def fingerprint(asked: Sequence[Question], read: Sequence[Piece]) -> str:
    """Of all that is asked: two runs with the same one can be compared."""
    return _digest(*(one.id for one in asked), *(one.id for one in read))


def _digest(*parts: str | int) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
