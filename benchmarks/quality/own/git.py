"""What git knows of a folder: which files are tracked, which are others' work, and since when each is there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

NOT_OURS = ("linguist-vendored", "linguist-generated")
"""Attributes by which repositories mark such files: https://github.com/github-linguist/linguist/blob/main/docs/overrides.md"""
_HEAD = "\x01"


class GitError(ValueError):
    """git cannot tell what is asked; the message says what it said."""


class Repository:
    """The part of a git repository at and below `directory`. Paths are relative to it, with slashes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def at(cls, directory: Path) -> Repository | None:
        """None where the folder is in no repository. Raises GitError where it is in one that git cannot read."""
        if not any((folder / ".git").exists() for folder in (directory.resolve(), *directory.resolve().parents)):
            return None
        one = cls(directory)
        one._ask("rev-parse", "--is-inside-work-tree")
        return one

    def tracked(self) -> list[str]:
        return sorted({*_names(self._ask("ls-files", "-z"))})

    def commit(self) -> str | None:
        """What is checked out; None before the first commit."""
        try:
            return self._ask("rev-parse", "--short=12", "HEAD").decode().strip()
        except GitError:
            return None

    def not_ours(self, paths: Sequence[str]) -> set[str]:
        """Those that `.gitattributes` call vendored or generated."""
        asked = "".join(f"{path}\0" for path in paths).encode("utf-8", "surrogateescape")
        fields = _names(self._ask("check-attr", "-z", "--stdin", *NOT_OURS, given=asked))
        triples = zip(*(iter(fields),) * 3, strict=True)
        return {path for path, _, value in triples if value not in ("unspecified", "unset", "false")}

    def first_committed(self) -> dict[str, float]:
        """Unix seconds at which the author of the commit with each file's first content made it; renames are followed,
        also from other parts of the repository, and however many there are in a commit.

        Raises GitError for a shallow clone, whose oldest commit seems to have made all files.
        """
        if self._ask("rev-parse", "--is-shallow-repository").strip() == b"true":
            raise GitError("the clone is shallow and does not know how old its files are: git fetch --unshallow")
        told = self._ask(
            *("log", "--reverse", "--no-relative", "--name-status", "--find-renames", "-l0", "--diff-filter=AR", "-z"),
            f"--format={_HEAD}%at",
        )
        below = self._ask("rev-parse", "--show-prefix").decode("utf-8", "surrogateescape").removesuffix("\n")
        found: dict[str, float] = {}
        at, fields = 0.0, _names(told)
        for field in fields:
            status = field.removeprefix("\n")
            if status.startswith(_HEAD):
                at = float(status.removeprefix(_HEAD))
            elif status.startswith("R"):
                old, new = next(fields), next(fields)
                found.setdefault(new, found.get(old, at))
            elif status:
                found.setdefault(next(fields), at)
        return {path.removeprefix(below): at for path, at in found.items() if path.startswith(below)}

    def _ask(self, *arguments: str, given: bytes | None = None) -> bytes:
        """No hook of the repository is run, and its log shows what it shows where nobody set anything."""
        settings = ("core.fsmonitor=false", "core.quotePath=false", "log.showSignature=false", "log.showRoot=true")
        command = ["git", *(part for one in settings for part in ("-c", one)), *arguments]
        try:
            done = subprocess.run(command, cwd=self._directory, input=given, capture_output=True, check=False)
        except FileNotFoundError:
            raise GitError(f"{self._directory.name} is a git repository, and there is no git") from None
        if done.returncode:
            raise GitError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout


def _names(output: bytes) -> Iterator[str]:
    """Of `-z`: names are bytes, and may be no UTF-8."""
    return iter(output.decode("utf-8", "surrogateescape").split("\0")[:-1])
