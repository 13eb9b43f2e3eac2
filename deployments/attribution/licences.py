"""Under which licence a file is: as it says itself, as its package says, or as the licence beside it reads."""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from model.pico.corpus import licence_statement

_TAG = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+\-() ]{2,100}?)\s*(?:\*/|-->|$)", re.MULTILINE)
_HEAD = 4_000
"""Characters of a file, or of a licence, that tell."""

_FILE = re.compile(r"(?i)(un)?licen[sc]e([.-].*)?|copying([.-].*)?")

_WORDS: tuple[tuple[str, str], ...] = (
    ("Apache-2.0", r"apache license,? version 2\.0"),
    ("AGPL-3.0", r"gnu affero general public license version 3"),
    ("LGPL-3.0", r"gnu lesser general public license version 3"),
    ("LGPL-2.1", r"gnu lesser general public license version 2\.1"),
    ("GPL-3.0", r"gnu general public license version 3"),
    ("GPL-2.0", r"gnu general public license version 2"),
    ("MPL-2.0", r"mozilla public license,? version 2\.0"),
    ("PSF-2.0", r"python software foundation license version 2"),
    ("BSL-1.0", r"boost software license - version 1\.0"),
    ("Unlicense", r"this is free and unencumbered software released into the public domain"),
    ("MIT", r"permission is hereby granted, free of charge, to any person obtaining a copy"),
    ("ISC", r"permission to use, copy, modify, and/or distribute this software for any purpose"),
    ("BSD-3-Clause", r"redistribution and use in source and binary forms.*neither the name"),
    ("BSD-2-Clause", r"redistribution and use in source and binary forms"),
)
"""From a licence's SPDX identifier to words of its text that no other has, as far as it stands behind those."""

_PUBLISHED = "general public license as published by .{0,60}version "
_NOTICES: tuple[tuple[str, str], ...] = (
    ("AGPL-3.0", f"gnu affero {_PUBLISHED}3"),
    ("LGPL-3.0", f"gnu lesser {_PUBLISHED}3"),
    ("LGPL-2.1", rf"gnu lesser {_PUBLISHED}2\.1"),
    ("LGPL-2.0", f"gnu (library|lesser) {_PUBLISHED}2"),
    ("GPL-3.0", f"gnu {_PUBLISHED}3"),
    ("GPL-2.0", f"gnu {_PUBLISHED}2"),
)
"""How files name licences that stand elsewhere."""

_PATTERNS = tuple((name, re.compile(words, re.DOTALL)) for name, words in _WORDS)
_HEAD_PATTERNS = (*_PATTERNS, *((name, re.compile(words)) for name, words in _NOTICES))

_BLOCKS = {"/*": "*/", "<!--": "-->", "{-": "-}", "(*": "*)", '"""': '"""', 'r"""': '"""', "'''": "'''"}
_LINES = ("#", "//", "--", ";", "%", "'", "*", "dnl ", "rem ")
_MARKS = re.compile(r"([\s#*/;%\"']|--)+")


class Licences:
    """Of the files below a directory. given: what all are under; None: it is looked for."""

    def __init__(self, directory: Path, given: str | None = None) -> None:
        self._top = directory
        self._given = given
        self._by_directory: dict[Path, str | None] = {}
        self._by_file: dict[Path, str] = {}

    def of(self, file: Path, text: str) -> str | None:
        if self._given is not None:
            return self._given
        if (tag := _TAG.search(text[:_HEAD])) is not None:
            return tag[1]
        if (said := _said_by(_MARKS.sub(" ", opening_comment(text[:_HEAD])).lower(), _HEAD_PATTERNS)) is not None:
            return said
        # Reads the packages of a directory when the first of its files comes.
        beside = self._beside(file.parent)
        return self._by_file.get(file, beside)

    def _beside(self, directory: Path) -> str | None:
        """What the nearest licence above says."""
        if directory not in self._by_directory:
            self._by_file.update(_packages(directory))
            found = _recognised(directory)
            if found is None and directory != self._top:
                found = self._beside(directory.parent)
            self._by_directory[directory] = found
        return self._by_directory[directory]


def _recognised(directory: Path) -> str | None:
    for path in sorted(directory.iterdir()):
        if _FILE.fullmatch(path.name) and path.is_file():
            text = " ".join(path.read_text("utf-8", "replace").split()).lower()
            if (said := _said_by(text, _PATTERNS)) is not None:
                return said
    return None


def _said_by(text: str, patterns: tuple[tuple[str, re.Pattern[str]], ...]) -> str | None:
    """The licence whose words come first."""
    earliest = [(found.start(), name) for name, words in patterns if (found := words.search(text))]
    return min(earliest, key=lambda one: one[0])[1] if earliest else None


def opening_comment(text: str) -> str:
    """Comments and docstring before the first line of code: what a file says of itself, not what it works with."""
    lines, end = [], ""
    for line in text.splitlines():
        bare = line.strip().lower()
        if not end:
            begun = next((begin for begin in _BLOCKS if bare.startswith(begin)), "")
            if not begun and bare and not bare.startswith(_LINES):
                break
            end = _BLOCKS.get(begun, "")
            bare = bare.removeprefix(begun)
        if end and end in bare:
            end = ""
        lines.append(line)
    return "\n".join(lines)


def _packages(directory: Path) -> Iterator[tuple[Path, str]]:
    """Files of Python's packages that are installed there, with what their metadata states, where it can be read."""
    for found in metadata.distributions(path=[str(directory)]):
        with contextlib.suppress(UnicodeDecodeError, csv.Error):
            if statement := licence_statement(found.metadata):
                for file in found.files or []:
                    yield directory / file, statement
