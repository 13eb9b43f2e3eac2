"""The exact ids of many random prompts, noted once: what a cut keeps and where it falls must not drift."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from model.pico import CHECKPOINT
from model.text.context import ContextFile, RepositoryContext
from model.text.prompts import Infill, Plain, PromptForm, PromptTooLongError, Raw, render
from model.text.tokenizer import Tokenizer
from model.text.truncation import Window

CODE = (Path(__file__).parents[1] / "data" / "pico_heldout.txt").read_text()
WIDE = ("größer ", "漢字の例", "👩‍💻🎉", "привет", "\u2028", "\u3000é")
LONG = (" " * 300, "\n" * 40, "A" * 400, "0123456789" * 9)
CASES = 150


class Case(NamedTuple):
    prompt: str | list[int]
    form: PromptForm
    window: Window


def text(rng: random.Random, size: int, pieces: tuple[str, ...] = LONG) -> str:
    """Code of about `size` characters, with some of `pieces` in it."""
    written: list[str] = []
    while sum(map(len, written)) < size:
        start = rng.randrange(len(CODE))
        written.append(CODE[start : start + rng.randrange(1, 400)] if rng.random() < 0.7 else rng.choice(pieces))
    return "".join(written)


def context(rng: random.Random) -> RepositoryContext:
    sizes = [rng.choice([10, 500, 5000]) for _ in range(rng.randrange(4))]
    files = tuple(ContextFile(rng.choice(["", "tax.py"]), text(rng, size, WIDE)) for size in sizes)
    return RepositoryContext(rng.choice([None, "acme/shop"]), rng.choice([None, "src/größe.py"]), files)


def template(rng: random.Random, size: int) -> str:
    head = rng.choice(["", "import x<|endoftext|>"])
    header = rng.choice(["", "<reponame>acme<filename>a.py\n"])
    prefix, suffix = text(rng, size, WIDE + LONG), text(rng, size, WIDE + LONG)
    if rng.random() < 0.5:
        return f"{head}<fim_prefix><fim_suffix>{suffix}<fim_middle>{header}{prefix}"
    return f"{head}<fim_prefix>{header}{prefix}<fim_suffix>{suffix}<fim_middle>{rng.choice(['', 'foo('])}"


def cases(kind: str, tokenizer: Tokenizer) -> Iterator[Case]:
    rng = random.Random(kind)
    for _ in range(CASES):
        size = rng.choice([1, 30, 300, 3000, 20_000])
        tokens = rng.choice([rng.randrange(4, 80), rng.randrange(80, 700), rng.randrange(700, 3000)])
        window = Window(tokens, rng.choice([1, 16, 32]), cuts=rng.random() < 0.8)
        mode = rng.choice(("psm", "spm"))
        match kind:
            case "ids":
                yield Case(tokenizer.encode(text(rng, size)), Raw(), window)
            case "raw":  # ASCII: cuts of other text avoid the insides of characters
                yield Case(text(rng, size, (*LONG, "<filename>", "<|endoftext|>", "<fim_middle>")), Raw(), window)
            case "template":
                yield Case(template(rng, size), Raw(), window)
            case "plain":
                yield Case(text(rng, size, WIDE + LONG), Plain(context(rng)), window)
            case "infill":
                yield Case(text(rng, size, WIDE), Infill(mode, text(rng, size, WIDE + LONG)), window)
            case "infill with context":
                yield Case(text(rng, size, WIDE), Infill(mode, text(rng, size, WIDE), context(rng)), window)


def outcome(tokenizer: Tokenizer, case: Case) -> str:
    try:
        return repr(render(tokenizer, *case))
    except PromptTooLongError as error:
        return f"too long: {error.length}"
    except ValueError as error:
        return str(error)


def digest(outcomes: list[str]) -> str:
    return hashlib.sha256("\n".join(outcomes).encode()).hexdigest()[:16]


GOLDEN = {
    "ids": "8890d6a704aae29f",
    "raw": "771c8d23e2b6318f",
    "template": "ae9425c08888b62a",
    "plain": "83ffe8e6f0fde257",
    "infill": "f8c0aa5d86d2c46b",
    "infill with context": "48adca5d97c29940",
}
"""With the vocabulary of the embedded model: a new one has other ids."""


@pytest.mark.parametrize("kind", GOLDEN)
def test_prompts_have_the_ids_they_had(kind: str) -> None:
    tokenizer = Tokenizer.from_checkpoint(CHECKPOINT)
    outcomes = [outcome(tokenizer, case) for case in cases(kind, tokenizer)]
    assert sum(result.startswith("[") for result in outcomes) > CASES // 3
    assert digest(outcomes) == GOLDEN[kind]
