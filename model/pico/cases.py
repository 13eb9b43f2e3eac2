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
    """A function whose body is to be written: all that follows its signature and its docstring, if it has one.

    prompt: the text before it. head: the signature and docstring with which that ends. real: what follows in the file.
    """

    prompt: str
    head: str
    real: str


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
        lines = text.split("\n")
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        heads = [(n.lineno - 1, end) for n in functions if (end := _end_of_head(n, lines)) is not None]
        if heads:
            start, end = rng.choice(heads)
            before, after = "\n".join(lines[:end]), "\n".join(["", *lines[end:]])
            found.append(Body(_tail(before), "\n".join(lines[start:end]), after))
    return found


def _end_of_head(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int | None:
    """The number of lines up to where the body begins, or None where fewer than two lines are left to write."""
    documented = ast.get_docstring(node, clean=False) is not None
    body = node.body[1:] if documented else node.body
    if not body or node.body[0].lineno == node.lineno or node.end_lineno == body[0].lineno:
        return None
    if documented:
        return node.body[0].end_lineno
    end = node.body[0].lineno - 1
    while end > node.lineno and not lines[end - 1].rstrip().endswith(":"):  # comments before the first statement
        end -= 1
    return end if lines[end - 1].endswith(":") else None


def parses(head: str, completion: str, finished: bool) -> bool:
    """Whether head and body parse, cut at the last complete line (unless the model itself `finished`).

    The body ends before the first line that is indented no deeper than the function's own. Without a line, it fails.
    """
    lines = completion.split("\n")
    if not finished:
        lines = lines[:-1]
    indent = len(head) - len(head.lstrip())
    kept: list[str] = []
    for line in lines:
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        kept.append(line)
    if not any(line.strip() for line in kept):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(textwrap.dedent(head + "\n".join(kept)) + "\n")
    except (SyntaxError, ValueError):
        return False
    return True
