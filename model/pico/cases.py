"""The evaluation's cases, drawn from held-out files with a fixed seed: masked lines and function bodies."""

from __future__ import annotations

import ast
import random
import textwrap
import warnings
from dataclasses import dataclass

from model.pico.corpus import Document

PREFIX_CHARACTERS = 1200
SUFFIX_CHARACTERS = 500


@dataclass(frozen=True)
class Hole:
    """One masked line, from behind its indentation to before its newline: where an editor's cursor stands."""

    prefix: str
    line: str
    suffix: str


@dataclass(frozen=True)
class Body:
    """A function whose body is to be written. `prompt` ends with the colon of `signature`."""

    prompt: str
    signature: str


def _tail(text: str) -> str:
    """The last lines of a text, about PREFIX_CHARACTERS of them, cut at a line's start."""
    if len(text) <= PREFIX_CHARACTERS:
        return text
    return text[text.find("\n", len(text) - PREFIX_CHARACTERS) + 1 :]


def holes(documents: list[Document], number: int, seed: int = 0) -> list[Hole]:
    """One random line that is not blank from a random file, `number` times."""
    rng, found = random.Random(seed), list[Hole]()
    while len(found) < number:
        lines = rng.choice(documents).text.split("\n")
        at = rng.randrange(len(lines))
        if any(c.isalnum() for c in lines[at]):
            line = lines[at].lstrip()
            before = "\n".join([*lines[:at], lines[at].removesuffix(line)])
            after = "\n".join(["", *lines[at + 1 :]])
            found.append(Hole(_tail(before), line, after[:SUFFIX_CHARACTERS]))
    return found


def bodies(documents: list[Document], number: int, seed: int = 0) -> list[Body]:
    """One random function of a random file, `number` times; its body has at least two lines of its own."""
    rng, found = random.Random(seed), list[Body]()
    while len(found) < number:
        text = rng.choice(documents).text
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        functions = [n for n in functions if n.body[0].lineno > n.lineno and n.end_lineno - n.body[0].lineno >= 1]  # type: ignore[operator]
        if not functions:
            continue
        node = rng.choice(functions)
        lines = text.split("\n")
        last = node.body[0].lineno - 1
        while last > node.lineno and not lines[last - 1].rstrip().endswith(":"):
            last -= 1
        if not lines[last - 1].endswith(":"):
            continue
        signature = "\n".join(lines[node.lineno - 1 : last])
        found.append(Body(_tail("\n".join(lines[:last])), signature))
    return found


def parses(signature: str, completion: str, finished: bool) -> bool:
    """Whether signature and completion parse, cut at the last complete line (unless the model itself `finished`).

    Lines that leave the scope in which the function stands end it. A completion without a complete line fails.
    """
    lines = completion.split("\n")
    if not finished:
        lines = lines[:-1]
    indent = len(signature) - len(signature.lstrip())
    kept: list[str] = []
    for line in lines:
        if line.strip() and kept and len(line) - len(line.lstrip()) < indent:
            break
        kept.append(line)
    if not any(line.strip() for line in kept):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(textwrap.dedent(signature + "\n".join(kept)) + "\n")
    except (SyntaxError, ValueError):
        return False
    return True
