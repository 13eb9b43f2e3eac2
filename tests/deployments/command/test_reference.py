"""The document of all commands: every option is in it, once, and what is needed together is said."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from deployments.command import cli
from deployments.command.completion import Completion
from deployments.command.declaration import Command
from deployments.command.reference import reference
from deployments.options import OptionParser

DOCUMENT = Path(__file__).parents[3] / "docs" / "commands.md"


class _Brew:
    """A command that has one of each."""

    def parser(self) -> OptionParser:
        parser = OptionParser("starcoder brew", "Brew\n  coffee.", epilog="Drink it.")
        heat = parser.add_mutually_exclusive_group(required=True)
        heat.add_argument("--hot", action="store_true", help="at 94 °C")
        heat.add_argument("--degrees", metavar="C", type=float, default=20.0, help="colder (default: %(default)s)")
        parser.add_argument("beans", metavar="BEANS", nargs="+", help="which ones")
        milk = parser.add_argument_group("milk", "what may be left out")
        milk.add_argument("--milk", choices=["cow", "oat"], required=True, help="whose")
        sweet = parser.add_mutually_exclusive_group()
        sweet.add_argument("--sugar", action=argparse.BooleanOptionalAction, help="white")
        sweet.add_argument("--honey", action="store_true", help="from bees")
        serve = parser.parts().add_parser(
            "serve", description="In a cup.", epilog="Drink it.", prog="starcoder brew serve"
        )
        again = serve.add_argument_group("milk", "what may be left out")
        again.add_argument("--milk", choices=["cow", "oat"], required=True, help="whose")
        return parser

    def run(self, arguments: object) -> int:
        raise AssertionError


def test_a_command_is_described_with_its_parts() -> None:
    text = reference({"the kitchen": {"brew": Command(_Brew, "brew coffee")}})
    assert "| [brew](#starcoder-brew) | brew coffee |\n\n## The kitchen\n" in text
    described = text.partition("## The kitchen\n")[2].partition("\n## Programs beside it\n")[0]
    assert (
        described
        == """
### starcoder brew

Brew coffee.

| | |
| --- | --- |
| `BEANS [BEANS ...]` | which ones |
| `--hot` | at 94 °C |
| `--degrees C` | colder (default: 20.0) |
| `--sugar, --no-sugar` | white |
| `--honey` | from bees |

**Milk**: what may be left out

| | |
| --- | --- |
| `--milk {cow,oat}` (needed) | whose |

Of `--hot` and `--degrees`, one is needed.

Of `--sugar` and `--honey`, one at most is given.

Drink it.

### starcoder brew serve

In a cup.

**Milk**: as of `starcoder brew`.
"""
    )


def test_the_document_is_of_the_commands_that_there_are() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == reference(cli.SUBJECTS), "run `make boards`"


@pytest.mark.parametrize("place", Completion(cli.COMMANDS).places()[1:], ids=lambda place: " ".join(place.path))
def test_every_option_is_in_it(place) -> None:
    """Of the command itself, or of the one that it names."""
    sections = dict(part.split("\n", 1) for part in DOCUMENT.read_text(encoding="utf-8").split("\n### ")[1:])
    own = sections[f"starcoder {' '.join(place.path)}"]
    told = own + "".join(text for name, text in sections.items() if f": as of `{name}`." in own)
    names = {name for option in place.options for name in option.names} - {"--help"}
    assert [name for name in sorted(names) if f"`{name}" not in told and f", {name}" not in told] == []
