"""The commands as somebody types them, with a home of their own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from deployments.command import cli
from deployments.command.teams import running
from deployments.command.teams.office import Office
from deployments.variables import ENV_PREFIX
from tests.deployments.command.teams.canned import Api
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


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    """Commands speak to it."""
    found = Api()

    @contextlib.asynccontextmanager
    async def opened(options: object, makes: bool) -> AsyncIterator[Office]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(found), base_url="http://api") as client:
            yield Office(client)

    monkeypatch.setattr(running, "opened", opened)
    return found
