"""The texts: this package's own source, which is real code and there wherever the engine is, and what the user has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import model
from deployments.command.verify.cases import Material, Prompt
from model.config import ConfigError
from model.text.fim import FimMode
from model.text.prompts import Infill, PromptForm, Raw
from model.text.tokenizer import Tokenizer

_MOST_CHARACTERS = 400_000
_GAPS = ((60, 20, 40), (900, 120, 500), (5, 3, 0), (0, 30, 700))
"""Characters of prefix, gap and suffix."""
_SOURCES = ("*.py", "scheduling/*.py", "network/*.py", "text/*.py", "process/*.py", "checkpoint/*.py")


def code() -> str:
    """The engine's own source, file by file in a fixed order."""
    root = Path(model.__file__).parent
    files = [path for pattern in _SOURCES for path in sorted(root.glob(pattern))]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)[:_MOST_CHARACTERS]


def material(tokenizer: Tokenizer, text: str, own: tuple[Prompt, ...], quick: bool) -> Material:
    return Material(tuple(tokenizer.encode(text)), tuple(_infills(tokenizer, text)), own, quick)


def _infills(tokenizer: Tokenizer, text: str) -> Iterator[Prompt]:
    """Gaps in code, in both orders, by the way that requests take."""
    if tokenizer.fim is None:
        return
    for number, (before, gap, after) in enumerate(_GAPS):
        start = 2000 + 1700 * number
        suffix = text[start + gap : start + gap + after]
        for mode in get_args(FimMode):
            ids = Infill(mode, suffix).encode(tokenizer, text[start - before : start])
            yield Prompt(f"{mode.upper()}, {len(ids)} tokens", tuple(ids))


def own_prompts(path: Path, tokenizer: Tokenizer, most: int) -> tuple[Prompt, ...]:
    """Lines of JSON with `prompt`, and `suffix` for a gap, rendered as a server renders them.

    most: tokens of a prompt. Raises ConfigError for what is no such line, or too long.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"prompts {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompts {path} are not UTF-8: {error}") from error
    prompts = tuple(
        _own(f"{path.name}, line {number}", line, tokenizer, most)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )
    if not prompts:
        raise ConfigError(f"prompts {path}: there are none in it")
    return prompts


def _own(name: str, line: str, tokenizer: Tokenizer, most: int) -> Prompt:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ConfigError(f'{name}: no line of JSON such as {{"prompt": "...", "suffix": "..."}}: {error}') from error
    if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
        raise ConfigError(f"{name}: not an object of texts")
    if "prompt" not in fields or fields.keys() - {"prompt", "suffix"}:
        raise ConfigError(f"{name}: wants `prompt` and at most `suffix`, not {', '.join(fields) or 'nothing'}")
    ids = _form(name, fields, tokenizer).encode(tokenizer, fields["prompt"])
    if not 0 < len(ids) <= most:
        raise ConfigError(f"{name}: {len(ids)} tokens, of which there have to be 1 to {most}")
    return Prompt(name, tuple(ids))


def _form(name: str, fields: dict[str, Any], tokenizer: Tokenizer) -> PromptForm:
    if "suffix" not in fields:
        return Raw()
    if tokenizer.fim is None:
        raise ConfigError(f"{name}: a suffix, but this model has no fill-in-the-middle tokens")
    return Infill(tokenizer.fim_order.mode, fields["suffix"])
