"""The list of those who do not want their code in an index: a pattern of paths a line, as in `.gitignore`'s."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from pathlib import Path

from model.config import ConfigError


class OptOut:
    """Names of files, with slashes. A pattern is of a file or of all below a directory; `*` stands for any text."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        whole = (translate(pattern.strip("/")) for pattern in patterns)
        below = [one.removesuffix(r"\Z") + r"(?s:/.*)?\Z" for one in whole]
        self._pattern = re.compile("|".join(below) or r"(?!)")

    @classmethod
    def read(cls, path: Path | None) -> OptOut:
        """Lines of a file; empty ones and those with `#` at their beginning are nothing. Raises ConfigError."""
        if path is None:
            return cls()
        try:
            lines = [line.strip() for line in path.expanduser().read_text("utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"opt-out list {path}: {error}") from error
        return cls(line for line in lines if line and not line.startswith("#"))

    def __contains__(self, name: str) -> bool:
        return self._pattern.match(name) is not None
