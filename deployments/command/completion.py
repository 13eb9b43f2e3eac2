"""`starcoder completion`: a script by which a shell completes command lines, made of what the parsers declare."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deployments.command.completion_scripts import SCRIPTS, Option, Place
from deployments.command.declaration import Command
from deployments.options import OptionParser

_WHERE = (
    "Where shells look for it: bash in ~/.local/share/bash-completion/completions/starcoder, zsh in a file _starcoder "
    "in a directory of $fpath, fish in ~/.config/fish/completions/starcoder.fish."
)


class Completion:
    """The command itself. commands: all that can be completed, by name."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands = commands

    def parser(self) -> OptionParser:
        parser = OptionParser("starcoder completion", "Print a script that completes command lines.", epilog=_WHERE)
        parser.add_argument("shell", choices=SCRIPTS, help="whose script it is")
        return parser

    def run(self, arguments: Sequence[str]) -> int:
        options = self.parser().parse_args(list(arguments))
        print(SCRIPTS[options.shell](self.places()), end="")
        return 0

    def places(self) -> list[Place]:
        """Every place of a command line where something is to be completed, from the outermost on."""
        outermost = Place((), words={name: command.help for name, command in self._commands.items()})
        parsers = {name: command.module().parser() for name, command in self._commands.items()}
        return [outermost, *(place for name, parser in parsers.items() for place in _places((name,), parser))]


def _places(path: tuple[str, ...], parser: argparse.ArgumentParser) -> Iterator[Place]:
    place, format = Place(path), parser._get_formatter()
    yield place
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            place.words |= {part.dest: part.help or "" for part in action._choices_actions}
            for name, part in action.choices.items():
                yield from _places((*path, name), part)
        elif action.option_strings:
            place.options.append(_option(action, format._expand_help(action)))
        elif action.choices:
            place.words |= dict.fromkeys(map(str, action.choices), "")
        else:
            place.files |= action.type is Path


def _option(action: argparse.Action, help: str) -> Option:
    takes_value = action.nargs != 0
    return Option(
        names=tuple(name for name in action.option_strings if name.startswith("--")),
        help=" ".join(help.split()),
        takes_value=takes_value,
        values=tuple(map(str, action.choices or ())),
        files=takes_value and (action.type is Path or action.metavar == "PATH"),
    )
