"""The house is as its documents draw it: rooms, arrows, paths, and no file of two subjects.

`python -m tests.test_house` draws the arrows of docs/architecture.md anew.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PACKAGES = ("model", "deployments", "monitoring", "benchmarks", "k8s")
LONGEST_FILE = 400
MOST_FILES_OF_A_REQUEST = 7

ARROW = re.compile(r"^\s*(\w+)(?:\[[^]]*\])? --> (\w+)", re.MULTILINE)
SHARED = re.compile(r"^\s*%% known to all: (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```mermaid\n(.*?)^```", re.MULTILINE | re.DOTALL)
PATH = re.compile(rf"(?<![\w./-])((?:{'|'.join(PACKAGES)}|tests|docs)/[\w./-]*\w)(?![\w*{{])")


def tracked(*patterns: str) -> list[Path]:
    """Files of the project, those not yet committed among them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in sorted(set(names)) if (ROOT / name).is_file()]


@cache
def imports() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def room_imports(package: str) -> set[tuple[str, str]]:
    """Which parts of a package import which, by the names right below it; of the project, by package."""
    graph, found = imports(), set()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            ends = _room(package, module), _room(package, other)
            if all(ends) and ends[0] != ends[1]:
                found.add(ends)
    return found


def _room(package: str, module: str) -> str:
    name = module if package == "project" else module.removeprefix(f"{package}.")
    return "" if package != "project" and name == module else name.partition(".")[0]


def drawn(picture: str) -> str:
    """The picture with the arrows that the imports make."""
    head = "".join(line for line in picture.splitlines(keepends=True) if not ARROW.match(line))
    title, shared = _title(picture), _shared(picture)
    arrows = sorted((a, b) for a, b in room_imports(title) if b not in shared)
    return head + "".join(f"    {a} --> {b}\n" for a, b in arrows)


def _title(picture: str) -> str:
    title = re.search(r"^title: (\w+)$", picture, re.MULTILINE)
    assert title, "a picture without a title"
    return title[1]


def _shared(picture: str) -> set[str]:
    """What all others know, to which no arrow is drawn."""
    shared = SHARED.search(picture)
    return set(shared[1].split(", ") if shared else ())


def pictures() -> dict[str, str]:
    """By the package that they show."""
    return {_title(picture): picture for picture in FENCE.findall(ARCHITECTURE.read_text())}


@pytest.mark.parametrize("package", ["project", "model", "deployments", "monitoring", "benchmarks"])
def test_the_picture_shows_the_imports(package: str) -> None:
    picture = pictures()[package]
    assert picture == drawn(picture), "run: python -m tests.test_house"
    shared = _shared(picture)
    assert not {(a, b) for a, b in room_imports(package) if a in shared and b not in shared}, "it knows too much"


@pytest.mark.parametrize("package", ["model", "deployments"])
def test_every_room_is_described(package: str) -> None:
    rooms = {path.relative_to(ROOT / package).parts[0] for path in tracked(f"{package}/*.py")} - {"__init__.py"}
    text = ARCHITECTURE.read_text()
    assert [room for room in rooms if not re.search(rf"`(?:{package}/)?{re.escape(room)}/?`", text)] == []


def test_no_file_has_two_subjects() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in tracked("*.py", "*.c", "*.h", "*.js", "*.mjs")}
    assert {path.relative_to(ROOT).as_posix(): n for path, n in lengths.items() if n > LONGEST_FILE} == {}


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "benchmarks/README.md", "docs"])
def test_paths_in_documents_exist(document: str) -> None:
    files = tracked(f"{document}/*.md") if (ROOT / document).is_dir() else [ROOT / document]
    assert files
    named = [(path.name, name) for path in files for name in PATH.findall(path.read_text())]
    written = "benchmarks/results/"  # by commands that the documents tell
    assert [(file, name) for file, name in named if not name.startswith(written) and not (ROOT / name).exists()] == []


def test_the_life_of_a_request_is_read_in_seven_files() -> None:
    story = ARCHITECTURE.read_text().partition("## The life of a request")[2].partition("\n## ")[0]
    files = re.findall(r"^\d\. .*?`((?:model|deployments)/[\w/]+\.py)`", story, re.MULTILINE)
    assert files == list(dict.fromkeys(files))
    assert 0 < len(files) <= MOST_FILES_OF_A_REQUEST


def test_every_folder_says_what_it_is() -> None:
    silent = [path for path in tracked("*/__init__.py") if not path.read_text().lstrip().startswith(('"""', 'r"""'))]
    assert [path.relative_to(ROOT).as_posix() for path in silent if path.parts[len(ROOT.parts)] != "tests"] == []


if __name__ == "__main__":
    text = ARCHITECTURE.read_text()
    for old in FENCE.findall(text):
        text = text.replace(old, drawn(old))
    ARCHITECTURE.write_text(text)


def always_true(source: str) -> Iterator[int]:
    """Lines where something else stands behind an exception and `or`: an exception is true, though it says nothing."""
    for handler in ast.walk(ast.parse(source)):
        if isinstance(handler, ast.ExceptHandler) and handler.name:
            for node in ast.walk(handler):
                if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
                    yield from (one.lineno for one in node.values[:-1] if getattr(one, "id", "") == handler.name)


def test_no_exception_is_taken_for_its_words() -> None:
    sample = (
        "try: f()\nexcept OSError as error:\n print(error or 1)\n print(str(error) or error or 2, error.a or error)"
    )
    assert list(always_true(sample)) == [3, 4]
    texts = {
        path: text for path in tracked("*.py") if re.search(r" as (\w+):(?s:.*)\b\1 or ", text := path.read_text())
    }
    found = {path: lines for path, text in texts.items() if (lines := list(always_true(text)))}
    assert found == {}
