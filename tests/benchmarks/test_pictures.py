"""`--plot` is an option of those commands that have something to draw, and of no others."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.__main__ import COMMANDS, main

OBSERVED = re.compile(r"\b(samples|bars|curves)=(?!range)|\.bars\b")


def has_observations(module: str) -> bool:
    """Whether its source puts any into its result; of a package, that of any module."""
    file = Path(str(import_module(module).__file__))
    files = file.parent.glob("**/*.py") if file.stem == "command" else [file]
    return any(OBSERVED.search(one.read_text()) for one in files)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_has_observations_can_be_drawn(command: str) -> None:
    module, _ = COMMANDS[command]
    assert bool(getattr(import_module(module), "PICTURE", "")) == has_observations(module)


def test_what_has_none_says_so_before_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["editors", "--plot", "people.png"])
    assert "unrecognized arguments: --plot" in capsys.readouterr().err
