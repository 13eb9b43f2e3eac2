"""Parsers of command lines: errors are two lines, and a misspelt option is answered with the nearest one."""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from deployments.sizes import size
from deployments.spelling import did_you_mean

_WIDEST = 100


class _Format(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns - 2, _WIDEST)
        super().__init__(prog, max_help_position=30, width=width)


class OptionParser(argparse.ArgumentParser):
    """Options are written out: an abbreviation of today may be another option's tomorrow."""

    def __init__(self, prog: str, description: str, usage: str | None = None, epilog: str | None = None) -> None:
        super().__init__(prog, usage, description, epilog, formatter_class=_Format, allow_abbrev=False)

    def parts(self) -> argparse._SubParsersAction[OptionParser]:
        """Of a command that has some, such as `teams create`."""
        return self.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Nothing is left unknown: a part of a command says itself what it does not know."""
        given = list(sys.argv[1:] if args is None else args)
        if self._subparsers is None:
            # Before anything is missed, which may be there under a misspelt name.
            self._refuse(word for word in itertools.takewhile("--".__ne__, given) if self._is_unknown(word))
        found, unknown = super().parse_known_args(given, namespace)
        self._refuse(unknown)
        return found, []

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n`{self.prog} --help` says what there is.\n")

    def _is_unknown(self, word: str) -> bool:
        return word.startswith("--") and word.partition("=")[0] not in self._option_string_actions

    def _refuse(self, unknown: Iterable[str]) -> None:
        options_end = False
        for word in unknown:
            if word == "--" and not options_end:
                options_end = True
                continue
            name = word.partition("=")[0]
            if word.startswith("-") and not options_end:
                self.error(f"there is no option {name}{did_you_mean(name, self._option_string_actions)}")
            self.error(f"{word!r} is one argument too many")


def size_given(text: str) -> int:
    """The type of an option that is a size."""
    try:
        return size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def number(text: str) -> float:
    """The type of an option that is a number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 0")
    return value


def share(text: str) -> float:
    """The type of an option that is a number above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0 and at most 1")
    return value


def positive(text: str) -> int:
    """The type of an option that is a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
