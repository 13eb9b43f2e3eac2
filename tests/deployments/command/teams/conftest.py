"""The commands as somebody types them, with a home of their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from deployments.command import cli
from deployments.variables import ENV_PREFIX
from tests.support.fake_app import tokenizer  # noqa: F401


class Said(NamedTuple):
    """out: standard output; words: standard error."""

    out: str
    words: str


Starcoder = Callable[..., Said]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "starcoder-serve"


@pytest.fixture
def starcoder(home: Path, capsys: pytest.CaptureFixture[str]) -> Starcoder:
    """Runs a command line; code: how it has to end."""

    def run(line: str, *more: str, code: int = 0) -> Said:
        try:
            ended = cli.main([*line.split(), *more])
        except SystemExit as error:
            ended = int(str(error.code))
        said = Said(*capsys.readouterr())
        assert ended == code, said
        return said

    return run
