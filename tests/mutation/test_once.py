"""A fork of a process that has collected says of its tests what pytest says that collects them anew."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.environment import with_project

TESTS = """
import os
from pathlib import Path

import pytest

def pytest_generate_tests(metafunc):
    metafunc.config._tmp_path_factory.getbasetemp()

def tell(what):
    with Path("told").open("a") as file:
        file.write(what + "\\n")

@pytest.fixture(scope="session")
def held():
    tell("held")
    yield
    tell("let go")

@pytest.fixture(scope="session")
def badly_held():
    yield
    raise ValueError

def test_slow(): tell("slow")
def test_passes(held): tell("passes")
def test_fails(held): raise ValueError
def test_ends_badly(badly_held): ...
def test_leaves(): raise KeyboardInterrupt
def test_directory(tmp_path, capfd):
    os.write(1, b"said")
    assert capfd.readouterr().out == "said"
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    tell(str(tmp_path.parent))
def test_prints(capsys): print("this"); assert capsys.readouterr().out == "this\\n"
@pytest.mark.parametrize("a", ["one", r"t\\w.o"])
def test_several(a): tell(a)
"""
COLLECTED = """
import json, os, sys
from pathlib import Path

import pytest
from mutmut.runners.harness import PytestRunner

options = ["-p", "no:cacheprovider", "-p", "no:randomly", "-p", "tests.mutation.haste", "--rootdir=."]
code = pytest.main(["--collect-only", "-qqq", "-p", "tests.mutation.once", *options, "test_a.py"])
assert code == 0, code

def forked(run):
    Path("told").write_text("")
    pid = os.fork()
    if not pid:
        try:
            os._exit(run())
        except LookupError:
            os._exit(4)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), Path("told").read_text().split()

said = []
for asked in json.loads(sys.argv[1]):
    names = [f"test_a.py::test_{name}" for name in asked]
    once = forked(lambda: PytestRunner().run_tests(mutant_name="a", tests=names))
    said.append((once, forked(lambda: pytest.main(["-x", "-q", *options, *names]))))
Path("said").write_text(json.dumps(said))
"""


def told(directory: Path, *asked: list[str]) -> list[list[tuple[int, list[str]]]]:
    """Of each selection of tests, once and anew: what the process ended with, and what its tests told."""
    (directory / "test_a.py").write_text(TESTS)
    times = {"test_a.py::test_slow": 3.0, "test_a.py::test_fails": 1.0}
    (directory / "mutmut-stats.json").write_text(json.dumps({"duration_by_test": times}))
    runners = directory / "mutmut" / "runners"
    runners.mkdir(parents=True)
    (runners / "harness.py").write_text("class PytestRunner: ...\n")
    code = [sys.executable, "-c", COLLECTED, json.dumps(asked)]
    environment = with_project(PYTEST_DEBUG_TEMPROOT=str(directory))
    subprocess.run(code, cwd=directory, env=environment, stdout=subprocess.DEVNULL, check=True)
    said: list[list[tuple[int, list[str]]]] = json.loads((directory / "said").read_text())
    return said


def test_a_fork_says_what_a_process_says_that_collects_anew(tmp_path: Path) -> None:
    asked = {
        "passes": ["slow", "passes", "prints"],
        "fails": ["fails", "passes"],
        "stops": ["slow", "fails", "prints"],
        "leaves": ["leaves"],
        "gone": ["passes", "gone"],
        "several": [r"several[t\\w.o]"],
        "badly": ["ends_badly"],
        "directory": ["directory"],
        "another": ["directory"],
    }
    said = dict(zip(asked, told(tmp_path, *asked.values()), strict=True))
    directories = [told.pop() for name in ("directory", "another") for _, told in said[name]]
    for once, anew in said.values():
        assert once == anew
    assert {name: once for name, (once, _) in said.items()} == {
        "passes": [0, ["held", "passes", "slow", "let", "go"]],
        "fails": [1, ["held", "passes", "let", "go"]],
        "stops": [1, ["held", "let", "go"]],  # the slow one would come later
        "leaves": [2, []],
        "gone": [4, []],
        "several": [0, [r"t\w.o"]],
        "badly": [1, []],
        "directory": [0, []],
        "another": [0, []],
    }
    assert len(set(directories)) == 4
