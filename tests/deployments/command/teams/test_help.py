"""The help of administrators' commands: phrases, and the same word for the same kind of value everywhere."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from types import ModuleType

import pytest

from deployments.command.teams import audit, keys, members, prices, teams, usage
from deployments.options import OptionParser

VALUES = {"COMMAND", "DAY", "N", "NAME", "PATH", "SECONDS", "URL", "USD", "WHEN", "X"}
"""Where an option does not call its value as itself."""


TITLES = {"positional arguments", "options", "commands", "where"}


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """It, and those of its parts."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from parsers(part)


MODULES = (audit, keys, members, prices, teams, usage)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_help_is_in_phrases_below_a_sentence(module: ModuleType) -> None:
    for parser in parsers(module.parser()):
        assert isinstance(parser, OptionParser)
        assert parser.prog.startswith(f"starcoder {module.__name__.rpartition('.')[2]}")
        assert parser.description
        assert parser.description[1:2].islower() or parser.description.startswith(("API", "USD"))
        assert parser.description.endswith(".")
        for action in parser._actions:
            parts = [part.help for part in getattr(action, "_choices_actions", [])]
            assert action.help or parts
            for phrase in (action.help, *parts):
                if phrase not in (None, argparse.SUPPRESS):
                    assert phrase[0].islower() or phrase[0].isdigit(), phrase
                    assert not phrase.endswith((".", "X")), phrase


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_value_has_the_same_name_everywhere(module: ModuleType) -> None:
    for parser in parsers(module.parser()):
        assert {action.metavar for action in parser._actions} <= {None, *VALUES}
        amounts = [action for action in parser._actions if action.dest in ("rpm", "tpm", "parallel", "last")]
        assert {action.metavar for action in amounts} <= {"N"}
        assert {group.title for group in parser._action_groups} <= {
            "positional arguments",
            "options",
            "commands",
            "where",
        }


def test_what_usage_can_be_divided_by_is_said() -> None:
    said = " ".join(usage.parser().format_help().split())
    assert "of team, key, model, kind, dialect, user, day, with commas between (team)" in said
