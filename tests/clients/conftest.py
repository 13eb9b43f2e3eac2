"""Other people's clients, and the servers they are pointed at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.http.authentication import credential
from deployments.ingress import create_app
from model.text.tokenizer import Tokenizer
from tests.clients.configured import WINDOW, configuration
from tests.support.fake_backend import FakeBackend
from tests.support.http_server import serving
from tests.support.json_process import ClientDriver
from tests.support.packages import CLIENTS, npm_packages, python_packages
from tests.support.stage import Stage
from tests.support.tokenizers import starcoder_rules


class Door:
    """An application's, at which the keys of those who come are noted.

    keys: of each request; None: it has none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.keys: list[str | None] = []
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.keys.append(credential(Headers(scope=scope)))
        await self._app(scope, receive, send)


def starts(text: str, whole: str) -> bool:
    """Whether `text` is what an editor may get of `whole`: its dialects may end where the code does."""
    return bool(text.strip()) and whole.startswith(text)


@pytest.fixture(scope="session")
def stage() -> Stage:
    return Stage(FakeBackend(Tokenizer(starcoder_rules()), WINDOW))


@pytest.fixture(scope="session")
def door(stage: Stage) -> Door:
    return Door(create_app(backend=stage, tokenizer=stage.actor.tokenizer))


@pytest.fixture(scope="session")
def address(door: Door) -> Iterator[str]:
    """Of a real server."""
    with serving(door) as url:
        yield url


@pytest.fixture
def backend(stage: Stage) -> FakeBackend:
    """The one behind `url`, new in each test."""
    stage.actor = FakeBackend(stage.actor.tokenizer, WINDOW)
    return stage.actor


@pytest.fixture
def url(address: str, backend: FakeBackend) -> str:
    return address


@pytest.fixture
def keys(door: Door) -> list[str | None]:
    """Of the requests of this test, as they come."""
    door.keys = []
    return door.keys


@pytest.fixture(scope="session")
def npm_folder() -> Path:
    """Holds `node_modules`, and the drivers beside it, where their imports find it."""
    folder = npm_packages()
    shutil.copytree(CLIENTS / "drivers", folder / "drivers", dirs_exist_ok=True)
    return folder


def npm_driver(folder: Path, name: str) -> ClientDriver:
    return ClientDriver(["node", "drivers/run.mjs", name], cwd=folder)


@pytest.fixture(scope="session")
def openai_js(npm_folder: Path) -> Iterator[ClientDriver]:
    with npm_driver(npm_folder, "openai") as driver:
        yield driver


@pytest.fixture(scope="session")
def huggingface_js(npm_folder: Path) -> Iterator[ClientDriver]:
    with npm_driver(npm_folder, "huggingface") as driver:
        yield driver


@pytest.fixture(scope="session")
def continue_js(npm_folder: Path) -> Iterator[ClientDriver]:
    with npm_driver(npm_folder, "continue") as driver:
        yield driver


@pytest.fixture(scope="session")
def text_generation() -> Iterator[ClientDriver]:
    python = python_packages("text-generation")
    with ClientDriver([str(python), str(CLIENTS / "drivers/text_generation_driver.py")]) as driver:
        yield driver


@pytest.fixture(scope="session")
def tabby_command(npm_folder: Path) -> list[str]:
    return ["node", str(npm_folder / "node_modules/tabby-agent/dist/cli.js")]


def tabby_environment(home: Path, endpoint: str) -> dict[str, str]:
    """In which tabby-agent finds the configuration that is documented."""
    folder = home / ".tabby-client/agent"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(configuration("tabby", endpoint))
    return {**os.environ, "HOME": str(home)}
