"""The documents: the commands that they tell are there, with their options, and one way to call them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deployments.command import cli
from deployments.command.completion import Completion
from deployments.command.completion_scripts import Place

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md", *(ROOT / "docs").glob("*.md")]

_COMMAND = re.compile(r"(?:^(?:\$ )?|`|\$\() *starcoder ((?:[^`\n)\\]|\\\n)+)", re.MULTILINE)


def commands(document: Path) -> list[list[str]]:
    """What the document has somebody type, in words and without `starcoder`."""
    found = _COMMAND.findall(document.read_text())
    return [re.split(r" [|>&#]|;", line.replace("\\\n", " "))[0].split() for line in found]


@pytest.fixture(scope="module")
def places() -> dict[tuple[str, ...], Place]:
    return {place.path: place for place in Completion(cli.COMMANDS).places()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_are_there_with_their_options(document: Path, places: dict[tuple[str, ...], Place]) -> None:
    for first, *words in commands(document):
        if first.startswith("--"):
            continue
        place = places[first,]
        if words and (first, words[0]) in places:
            place = places[first, words[0]]
        options = {name for option in place.options for name in option.names}
        said = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert said <= options, f"starcoder {first} {' '.join(words)}"


def test_there_are_commands() -> None:
    assert sum(len(commands(document)) for document in DOCUMENTS) > 40


def test_the_command_is_called_by_its_name_and_the_readme_says_where_it_is() -> None:
    assert [path.name for path in DOCUMENTS if ".venv/bin/starcoder" in path.read_text()] == []
    before, activated, after = (ROOT / "README.md").read_text().partition("`source .venv/bin/activate`")
    assert not _COMMAND.search(before)
    assert activated
    assert _COMMAND.search(after)
