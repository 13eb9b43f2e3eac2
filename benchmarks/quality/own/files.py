"""Which files of a folder are source code that its people wrote."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from benchmarks.quality.own.git import GitError, Repository
from deployments.stop_rules.languages import LANGUAGES, language_of

MOST_BYTES = 1 << 18
LONGEST_LINE = 1000
LONGEST_MEAN_LINE = 110
"""Characters; beyond, github-linguist takes a script for minified."""
FEW_LINES = 20
"""So many may all be long."""
HEAD_LINES = 10
PROSE_AND_DATA = frozenset({"other", "markdown", "json"})
CODE = tuple(sorted(set(LANGUAGES) - PROSE_AND_DATA))

_OTHERS = (
    r"node_modules|bower_components|jspm_packages|vendor|vendored|third[-_]?party|Godeps|site-packages|Pods|Carthage"
    r"|__generated__|__snapshots__"
)
_OF_OTHERS = re.compile(rf"(?:^|/)(?:{_OTHERS})/", re.IGNORECASE)
_UNTRACKED = re.compile(rf"{_OTHERS}|venv|virtualenv|env|dist|build|target|out|__pycache__|\..*", re.IGNORECASE)
"""Folders that people keep out of git, where no git says which."""
_GENERATED_NAME = re.compile(
    r"(?:[._-]min\.(?:js|css)|\.bundle\.js|_pb2(?:_grpc)?\.pyi?|\.pb\.(?:go|cc|h)|_pb\.(?:js|d\.ts)|\.g\.(?:dart|cs)"
    r"|\.freezed\.dart|\.designer\.cs|\.generated\.\w+|-lock\.\w+|\.lock)$",
    re.IGNORECASE,
)
_GENERATED_HEAD = re.compile(
    r"@generated\b|\b(?:auto-?|automatically[ -])generated\b|\bcode generated\b|\bdo not (?:edit|modify)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class SourceFile:
    """path: below the folder, with slashes. text: with LF, as models read it."""

    path: str
    language: str
    text: str

    @property
    def key(self) -> str:
        """By its content: a file that is moved stays what it is."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


@dataclass
class Selection:
    """left_out: how many files, by reason. commit: of the repository; None where there is none.

    since: only files that were first committed then or later.
    """

    files: list[SourceFile] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    commit: str | None = None
    since: date | None = None

    def of(self, language: str) -> list[SourceFile]:
        return [file for file in self.files if file.language == language]

    @property
    def languages(self) -> list[str]:
        return sorted({file.language for file in self.files})


def select(directory: Path, languages: Collection[str] = CODE, since: date | None = None) -> Selection:
    """Raises ValueError where nothing is left, or where git is asked for what it does not know."""
    if not directory.is_dir():
        raise ValueError(f"{directory} is no folder")
    if unknown := sorted(set(languages) - set(LANGUAGES)):
        raise ValueError(f"{', '.join(unknown)}: no language that is known; there are {', '.join(sorted(LANGUAGES))}")
    repository = Repository.at(directory)
    found = Selection(commit=repository.commit() if repository else None, since=since)
    paths = repository.tracked() if repository else sorted(_walk(directory))
    others = repository.not_ours(paths) if repository and paths else set[str]()
    new = _new(repository, since)
    keys: set[str] = set()
    for path in paths:
        language = language_of(path)
        if language is None or language not in languages:
            found.left_out["not in a language that is asked for"] += 1
        elif isinstance(read := _read(directory / path, path, path in others, new), str):
            found.left_out[read] += 1
        elif (file := SourceFile(_printable(path), language, read.text)).key in keys:
            found.left_out["the same as another file"] += 1
        else:
            keys.add(file.key)
            found.files.append(file)
    if not found.files:
        reasons = "; ".join(f"{number} {reason}" for reason, number in found.left_out.most_common())
        raise ValueError(f"no source files are left in {directory.name or directory} ({reasons or 'it is empty'})")
    return found


@dataclass(frozen=True)
class _Text:
    text: str


def _read(path: Path, name: str, marked: bool, new: Callable[[str], bool]) -> _Text | str:
    """The text, or why it is left out."""
    if path.is_symlink() or not path.is_file():
        return "a link, or no file"
    if marked or _OF_OTHERS.search(name):
        return "of others, or made by programs, by its folder or .gitattributes"
    if _GENERATED_NAME.search(name):
        return "made by programs, by its name"
    if not new(name):
        return "older than --since"
    if path.stat().st_size > MOST_BYTES:
        return f"longer than {MOST_BYTES >> 10} KiB"
    content = path.read_bytes()
    if b"\0" in content:
        return "binary"
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return "not UTF-8"
    return _why_not(text.split("\n")) or _Text(text)


def _why_not(lines: Sequence[str]) -> str | None:
    written = [line for line in lines if line.strip()]
    if not written:
        return "empty"
    long = len(written) > FEW_LINES and sum(map(len, written)) > LONGEST_MEAN_LINE * len(written)
    if long or max(map(len, lines)) > LONGEST_LINE:
        return "minified, or data: long lines"
    if any(_GENERATED_HEAD.search(line) for line in lines[:HEAD_LINES]):
        return "made by programs, as its head says"
    return None


def _new(repository: Repository | None, since: date | None) -> Callable[[str], bool]:
    if since is None:
        return lambda path: True
    if repository is None:
        raise GitError("--since asks git how old files are, and this is no git repository")
    first, begin = repository.first_committed(), datetime(since.year, since.month, since.day, tzinfo=UTC)
    return lambda path: first.get(path, 0.0) >= begin.timestamp()


def _walk(directory: Path) -> Iterator[str]:
    """All files below, but for hidden ones; folders of others are not even entered."""
    for folder, folders, names in os.walk(directory):
        below = Path(folder).relative_to(directory)
        folders[:] = sorted(name for name in folders if not _UNTRACKED.fullmatch(name))
        yield from ((below / name).as_posix() for name in names if not name.startswith("."))


def _printable(path: str) -> str:
    """Of bytes that are no UTF-8, their numbers."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
