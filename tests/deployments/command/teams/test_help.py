"""The help of administrators' commands: phrases, and the same word for the same kind of value everywhere."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from deployments.command.teams import audit, keys, members, prices, teams, usage
from deployments.options import OptionParser

VALUES = {"COMMAND", "DAY", "N", "NAME", "PATH", "SECONDS", "URL", "USD", "WHEN", "X"}
"""Where an option does not call its value as itself."""


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """It, and those of its parts."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from parsers(part)


EVERY = [one for module in (audit, keys, members, prices, teams, usage) for one in parsers(module.parser())]


@pytest.mark.parametrize("parser", EVERY, ids=lambda parser: parser.prog)
def test_help_is_in_phrases_below_a_sentence(parser: OptionParser) -> None:
    assert parser.description
    assert parser.description[1:2].islower() or parser.description.startswith(("API", "USD"))
    assert parser.description.endswith(".")
    for action in parser._actions:
        phrases = [action.help, *(part.help for part in getattr(action, "_choices_actions", []))]
        for phrase in filter(None, phrases):
            assert phrase[0].islower() or phrase[0].isdigit(), phrase
            assert not phrase.endswith((".", "X")), phrase


@pytest.mark.parametrize("parser", EVERY, ids=lambda parser: parser.prog)
def test_a_value_has_the_same_name_everywhere(parser: OptionParser) -> None:
    called = {action.metavar for action in parser._actions if action.metavar is not None}
    assert called <= VALUES
    amounts = [action for action in parser._actions if action.dest in ("rpm", "tpm", "parallel", "last")]
    assert {action.metavar for action in amounts} <= {"N"}
