"""Code of programs, as documented, is run as it stands there, but for the address, the model's name and the key."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deployments.clients.registry import clients
from tests.clients.configured import KEY, configuration
from tests.support.fake_backend import FakeBackend
from tests.support.packages import python_packages
from tests.support.programs import program


def written_in(language: str) -> list[str]:
    return [name for name, client in clients().items() if client.language == language]


def run(command: list[str], snippet: str, folder: Path) -> None:
    done = subprocess.run(command, input=snippet, text=True, capture_output=True, cwd=folder, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", written_in("python"))
def test_python(name: str, backend: FakeBackend, url: str, keys: list[str | None], tmp_path: Path) -> None:
    snippet = configuration(name, url)
    if name == "text-generation-python":
        run([str(python_packages("text-generation")), "-"], snippet, tmp_path)
    else:
        exec(compile(snippet, name, "exec"), {})
    assert backend.requests
    assert set(keys) == {KEY}


@pytest.mark.parametrize("name", written_in("javascript"))
def test_javascript(name: str, backend: FakeBackend, url: str, keys: list[str | None], npm_folder: Path) -> None:
    run([program("node", "nodejs"), "--input-type=module", "-"], configuration(name, url), npm_folder)
    assert backend.requests
    assert set(keys) == {KEY}
