"""What docs/clients.md says to write is run as it stands there, but for the address and the name of the model."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.fake_backend import MODEL, FakeBackend
from tests.support.packages import ROOT, python_packages
from tests.support.programs import program

DOCUMENT = (ROOT / "docs/clients.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)


def adapted(snippet: str, url: str) -> str:
    found = snippet.replace("http://127.0.0.1:8000", url).replace('"pico"', f'"{MODEL}"')
    assert url in found
    return found


def title(snippet: str) -> str:
    return re.findall(r"(?:import|from) [\"']?([\w@/]+)", snippet)[-1]


def run(command: list[str], snippet: str, folder: Path) -> None:
    done = subprocess.run(command, input=snippet, text=True, capture_output=True, cwd=folder, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("snippet", snippets("python"), ids=title)
def test_python(snippet: str, backend: FakeBackend, url: str, tmp_path: Path) -> None:
    if "from text_generation import" in snippet:
        run([str(python_packages("text-generation")), "-"], adapted(snippet, url), tmp_path)
    else:
        exec(compile(adapted(snippet, url), "docs/clients.md", "exec"), {})
    assert backend.requests


@pytest.mark.parametrize("snippet", snippets("javascript"), ids=title)
def test_javascript(snippet: str, backend: FakeBackend, url: str, npm_folder: Path) -> None:
    run([program("node", "nodejs"), "--input-type=module", "-"], adapted(snippet, url), npm_folder)
    assert backend.requests


def test_there_is_one_for_each_package() -> None:
    assert len(snippets("python")) == 5
    assert len(snippets("javascript")) == 2
    assert len(snippets("toml")) == 1
