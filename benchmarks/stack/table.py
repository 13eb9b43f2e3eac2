"""What the engine of this benchmark answers: the token ids of a real text, and from where each request takes them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from benchmarks.sources import source_files
from model.text.detokenizer import Detokenizer
from model.text.tokenizer import Tokenizer

MOST_TOKENS = 2048


@dataclass(frozen=True)
class Table:
    """ids: every answer is their beginning. ends: characters of the text after each of them. text: all of it."""

    ids: list[int]
    ends: list[int]
    text: str

    @classmethod
    def read(cls, tokenizer: Tokenizer, count: int = MOST_TOKENS) -> Table:
        """The beginning of Python's standard library, as far as it is ASCII: then a token never ends in a character."""
        ids = tokenizer.encode(source_text())[:count]
        detokenizer = Detokenizer(tokenizer)
        pieces = [detokenizer.push([id]) for id in ids]
        return cls(ids, list(accumulate(map(len, pieces))), "".join(pieces))


def source_text() -> str:
    """Source files, one behind the other, lines that are not ASCII left out."""
    lines = [line for file in source_files([]) for line in _read(file).splitlines(keepends=True)]
    return "".join(line for line in lines if line.isascii())


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def prompts(tokenizer: Tokenizer, count: int, tokens: int, seed: int = 0) -> list[list[int]]:
    """Token ids of pieces of code from anywhere, each of `tokens` tokens when its text is tokenized again."""
    ids = tokenizer.encode(source_text())
    if tokens >= len(ids):
        raise ValueError(f"there are {len(ids)} tokens of source text, so prompts have to be shorter")
    generator = random.Random(seed)
    found: list[list[int]] = []
    while len(found) < count:
        start = generator.randrange(len(ids) - tokens)
        piece = ids[start : start + tokens]
        if tokenizer.encode(tokenizer.decode(piece)) == piece:
            found.append(piece)
    return found
