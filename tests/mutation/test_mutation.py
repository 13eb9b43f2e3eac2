"""The tool that plants faults: what it takes for a room, what it reads of mutmut's words, and what is judged."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import psutil
import pytest
from alembic.util import pyfiles
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mutation import __main__ as command
from tests.mutation import haste, judged
from tests.mutation.judged import Change, Judged
from tests.mutation.names import function_of
from tests.mutation.rooms import ROOT, NoSuchRoomError, Room, room_of, rooms
from tests.mutation.scratch import _OPTIONS, PROSE, MutmutError, Scratch, read_diff
from tests.support.environment import with_project
from tests.support.waiting import wait_until


def test_every_room_has_files_and_tests() -> None:
    found = {room.name: room for room in rooms()}
    assert {"model", "model/scheduling", "deployments/teams", "monitoring"} <= found.keys()
    for room in found.values():
        assert room.sources
        assert room.tests
        assert all((ROOT / test).exists() for test in room.tests)
    assert found["model/text"].tests == ("tests/model/text",)
    assert {"tests/model/scheduling", "tests/model/test_engine.py"} <= set(found["model/scheduling"].tests)
    assert found["deployments/api/openai"].tests == ("tests/deployments/api/openai",)
    assert found["monitoring/boards"].tests == ("tests/monitoring",)  # it has none of its own
    tests = [f"tests/deployments/api/test_{name}.py" for name in ("tgi", "tgi_answers", "described", "line_ends")]
    assert found["deployments/api/tgi"].tests == tuple(tests)


def test_what_counts_calls_is_not_run() -> None:
    """Given by name, pytest would run it whatever it is to ignore."""
    tests = [test for room in rooms() for test in room.tests]
    assert "tests/deployments/api/test_errors.py" in tests
    assert not [test for test in tests if test.endswith(("test_linear_work.py", "test_planning_time.py"))]
    assert "--ignore-glob=*test_linear_work.py" in _OPTIONS


def test_what_is_tried_elsewhere_is_left_out() -> None:
    planted = [source for room in rooms() for source in room.sources]
    assert not [source for source in planted if source.startswith(("model/kernels/", "model/pico/"))]
    for name in ("model/pico", "model/pico/train.py", "nothing.py", "docs"):
        with pytest.raises(NoSuchRoomError):
            room_of(name)


def test_a_file_has_the_tests_of_its_room() -> None:
    (name,) = room_of("model/scheduling/scheduler.py").sources
    assert name == "model/scheduling/scheduler.py"
    assert room_of(name).tests == room_of("model/scheduling/").tests


def test_a_fault_is_read_from_its_diff() -> None:
    text = """\
# deployments.a.xǁBookǁhold__mutmut_2: survived
--- deployments/a.py
+++ deployments/a.py
@@ -1,3 +1,3 @@
 def hold(self):
-    return a < b
+    return a <= b
"""
    assert read_diff(text) == ("deployments/a.py", "return a < b", "return a <= b")
    with pytest.raises(MutmutError, match="no such"):
        read_diff("no such mutant")


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("deployments.a.xǁBookǁ_hold__mutmut_12", "Book._hold"),
        ("model.b.x_draw__mutmut_1", "draw"),
        ("model.b.x__draw__mutmut_1", "_draw"),
    ],
)
def test_a_fault_is_named_after_its_function(name: str, function: str) -> None:
    assert function_of(name) == function


def test_what_is_judged_is_in_the_code_still() -> None:
    """Else it stands for a fault that is not the one that was looked at."""
    assert judged.stale(judged.read(), ROOT) == []


def test_what_is_judged_and_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("    x = 1\n")
    there, gone = (Judged(Change(file, "f", "x = 1", "x = 2"), "equivalent") for file in ("a.py", "b.py"))
    other = Judged(Change("a.py", "f", "x = 3", "x = 2"), "equivalent")
    assert judged.stale([there, gone, other], tmp_path) == [gone.change, other.change]


def test_nothing_is_judged_twice_or_without_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "judged.toml"
    one = '[[judged]]\nfile = "a.py"\nfunction = "f"\nbefore = "x = 1"\nafter = "x = 2"\nreason = "{}"\n'
    file.write_text(one.format("equivalent"))
    assert [found.change.before for found in judged.read(file)] == ["x = 1"]
    for wrong in (one.format(" "), one.format("a") * 2):
        file.write_text(wrong)
        with pytest.raises(ValueError, match="twice, or without"):
            judged.read(file)


def test_what_takes_least_time_runs_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haste, "TIMES", tmp_path / "times.json")
    names = ["a.py::slow", "a.py::quick", "b.py::new", "b.py::quicker"]
    config: Any = Mock(rootpath=tmp_path)
    items: list[Any] = [Mock(nodeid=name, iter_markers=lambda name: ()) for name in names]
    haste.pytest_collection_modifyitems(config, items)
    assert [item.nodeid for item in items] == names, "nothing is known yet"
    times = {"a.py::slow": 3.0, "a.py::quick": 0.2, "b.py::quicker": 0.1}
    haste.TIMES.write_text(json.dumps({"duration_by_test": times}))
    haste.pytest_collection_modifyitems(config, items)
    assert [item.nodeid for item in items] == ["b.py::new", "b.py::quicker", "a.py::quick", "a.py::slow"]


@pytest.mark.parametrize(("asked", "seen"), [(200, 50), (30, 10), (4, 4)])
def test_a_test_sees_a_quarter_of_its_examples_and_no_smaller_one(asked: int, seen: int) -> None:
    examples: list[int] = []

    @settings(max_examples=asked, database=None)
    @given(st.integers())
    def test(example: int) -> None:
        examples.append(example)

    @settings(max_examples=asked, database=None)
    @given(st.integers())
    def fails(example: int) -> None:
        examples.append(example)
        raise ValueError

    for _ in range(2):
        haste.hasten(test)
    test()
    assert len(examples) == seen
    examples.clear()
    haste.hasten(fails)
    with pytest.raises(ValueError):  # noqa: PT011
        fails()
    assert len(set(examples)) == 1
    haste.hasten(None)


def test_mutmut_sets_no_context_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    class MutmutCallStack:
        @classmethod
        def set(cls, value: tuple[str, int]) -> object:
            raise AssertionError

        reset = set

    monkeypatch.setitem(sys.modules, "mutmut.core", Mock(MutmutCallStack=MutmutCallStack))
    haste.pytest_configure()
    MutmutCallStack.reset(MutmutCallStack.set(("deployments.a.x_f", 1)))
    monkeypatch.delitem(sys.modules, "mutmut.core")
    haste.pytest_configure()


def test_a_migration_has_the_name_that_faults_are_planted_under(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    for name in "versions/r1.py", "versions/env.py":
        (tmp_path / name).write_text("def upgrade(): ...\n")
    load = haste.named_as_in_a_package(pyfiles.load_module_py, tmp_path)
    module = load("r1_py", tmp_path / "versions" / "r1.py")
    assert module.__name__ == module.upgrade.__module__ == "versions.r1"
    assert load("env_py", str(tmp_path / "versions" / "env.py")).__name__ == "versions.env"
    elsewhere = haste.named_as_in_a_package(pyfiles.load_module_py, tmp_path / "deployments")
    assert elsewhere("r1_py", tmp_path / "versions" / "r1.py").__name__ == "r1_py"


COLLECTED_TWICE = """
import pytest

class Names:
    def pytest_collection_finish(self, session):
        print([item.name for item in session.items])

options = ["-qqq", "--collect-only", "-p", "no:cacheprovider", "-p", "tests.mutation.haste", "test_a.py"]
for _ in range(2):
    pytest.main(options, [Names()])
"""


def test_a_test_has_the_same_name_when_it_is_collected_again(tmp_path: Path) -> None:
    asks = "import pytest\n@pytest.mark.parametrize('a', [1], ids={})\ndef test_a(a): ...\n"
    for ids in (r"lambda a: r'a\.b'", r"[r'a\.b']"):
        (tmp_path / "test_a.py").write_text(asks.format(ids))
        code = [sys.executable, "-c", COLLECTED_TWICE]
        said = subprocess.run(code, cwd=tmp_path, env=with_project(), capture_output=True, text=True, check=True).stdout
        names = [line for line in said.splitlines() if line.startswith("[")]
        assert names == [r"['test_a[a\\\\.b]']"] * 2


FIXTURES = """
import pytest
from mutmut.state import state

def run(name):
    state()._stats.add(name)

@pytest.fixture(scope="session")
def inner():
    run("inner")

@pytest.fixture(scope="module")
def outer(inner):
    run("outer")

@pytest.fixture
def own():
    run("own")

def test_a(own): ...
def test_b(outer): run("b")
def test_c(): ...
def test_d(inner): ...
def test_e(outer, own): ...
"""
NOTED = """
import pytest
from mutmut.state import state

class Notes:
    def pytest_runtest_teardown(self, item):
        print(item.name, sorted(state()._stats))
        state()._stats.clear()

pytest.main(["-qqq", "-s", "-p", "no:cacheprovider", "-p", "tests.mutation.haste", "test_a.py"], [Notes()])
"""


def test_what_a_fixture_of_many_runs_is_run_by_each(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(FIXTURES)
    (tmp_path / "mutmut").mkdir()
    state = "class State:\n    _stats = set()\n\n\ndef state():\n    return State\n"
    (tmp_path / "mutmut" / "state.py").write_text(state)
    code = [sys.executable, "-c", NOTED]
    said = subprocess.run(code, cwd=tmp_path, env=with_project(), capture_output=True, text=True, check=True).stdout
    assert sorted(line.lstrip(".") for line in said.splitlines() if "test_" in line) == [
        "test_a ['own']",
        "test_b ['b', 'inner', 'outer']",
        "test_c []",
        "test_d ['inner']",
        "test_e ['inner', 'outer', 'own']",
    ]


@pytest.mark.parametrize(("longest", "patience"), [(0.5, 30.0), (4.0, 40.0)])
def test_a_test_that_hangs_is_given_up(longest: float, patience: float, tmp_path: Path) -> None:
    """Long before all that a function's tests may take together."""
    scratch = object.__new__(Scratch)
    scratch.directory = tmp_path
    (tmp_path / "mutants").mkdir()
    times = {"duration_by_test": {"a": 0.1, "b": longest}}
    (tmp_path / "mutants" / "mutmut-stats.json").write_text(json.dumps(times))
    asked: list[dict[str, str]] = []
    scratch._mutmut = lambda *_, **environment: asked.append(environment) or ""  # type: ignore[method-assign]
    scratch.run(["a.x_f__mutmut_1"], 2)
    assert asked == [{"PYTEST_TIMEOUT": str(patience)}]


def test_what_a_test_leaves_ends_with_mutmut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutmut = tmp_path / "mutmut"
    mutmut.write_text(
        "#!/bin/sh\nsleep 600 &\ntouch $PYTEST_DEBUG_TEMPROOT/file\necho $! $PYTEST_DEBUG_TEMPROOT $1 $TOLD\nexit 3\n"
    )
    mutmut.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    scratch = object.__new__(Scratch)
    scratch.directory = tmp_path
    left, written, *said = scratch._mutmut("run", check=False, TOLD="this").split()
    assert said == ["run", "this"]
    assert not Path(written).exists()
    wait_until(lambda: not psutil.pid_exists(int(left)) or psutil.Process(int(left)).status() == psutil.STATUS_ZOMBIE)
    with pytest.raises(MutmutError, match=r"^\d+ \S+ run this"):
        scratch._mutmut("run", TOLD="this")


MUTMUT_WITHOUT_FAULTS = f"""#!/bin/sh
printf '\\r⠋ Running stats\\r⠙ Running stats'
cd mutants && {sys.executable} -m pytest -q -p no:cacheprovider -p tests.mutation.haste --rootdir=. test_a.py > said
printf '\\nfailed to collect stats\\n'
exit 1
"""
ELSEWHERE_FAILS = """
def test_a(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "what it saw" == ""
"""


def test_a_test_that_fails_before_any_fault_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mutants").mkdir()
    (tmp_path / "mutants" / "test_a.py").write_text(ELSEWHERE_FAILS)
    (tmp_path / "mutmut").write_text(MUTMUT_WITHOUT_FAULTS)
    (tmp_path / "mutmut").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    scratch = object.__new__(Scratch)
    scratch.directory = tmp_path
    scratch_mutmut = scratch._mutmut
    project = with_project()["PYTHONPATH"]
    scratch._mutmut = lambda *a, **kw: scratch_mutmut(*a, **kw, PYTHONPATH=project)  # type: ignore[method-assign]
    with pytest.raises(MutmutError, match=r"(?s)failed to collect stats\ntest_a\.py::test_a\n.*what it saw") as failed:
        scratch.plant()
    assert str(failed.value).count("Running stats") <= 1


@pytest.mark.parametrize(
    ("line", "prose"),
    [
        ('    raise ValueError("a stop string must not be empty")', True),
        ('            f"the cache holds {blocks} blocks of {size} tokens, but "', True),
        ('        logger.warning("it is off by %d", 3)', True),
        ('    raise ValueError("empty")', False),
        ('    return "a stop string must not be empty"', False),
        ('    name="cuda",', False),
        ('    "duration_by_test": times,', False),
    ],
)
def test_in_sentences_that_people_read_nothing_is_planted(line: str, prose: bool) -> None:
    assert bool(re.search(PROSE, line)) == prose


class FakeScratch:
    """Five faults: one noticed, one that takes forever, one survives, one is judged, and one is run by no test."""

    CODES: ClassVar[dict[str, int | None]] = {f"a.x_f__mutmut_{at}": code for at, code in enumerate((1, 37, 0, 0, 33))}

    def __init__(self, directory: Path, room: Room) -> None: ...

    def plant(self) -> list[str]:
        return sorted(self.CODES)

    def run(self, names: list[str], workers: int) -> None: ...

    def codes(self) -> dict[str, int | None]:
        return self.CODES

    def lines(self, name: str) -> tuple[str, str, str]:
        return "a.py", "x = 1", f"x = {name[-1]}"


def test_a_room_is_told_by_what_was_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Scratch", FakeScratch)
    room = Room("a", ("a.py",), ("tests/a",))
    found = command.look(room, {Change("a.py", "f", "x = 1", "x = 3")}, None, 0, 2)
    assert (found.planted, found.noticed, found.by_types, found.judged, found.score) == (5, 2, 1, 1, 0.5)
    assert [change.after for change in found.survived] == ["x = 2", "x = 4"]
    assert command.look(room, set(), 3, 0, 2).planted == 3


@pytest.mark.parametrize(
    ("planted", "noticed", "judged", "interval"),
    [(10, 9, 0, (0.596, 0.982)), (110, 90, 10, (0.826, 0.945)), (20, 20, 0, (0.839, 1.0)), (20, 0, 0, (0.0, 0.161))],
)
def test_of_a_sample_the_room_is_told_with_what_chance_leaves_open(
    planted: int, noticed: int, judged: int, interval: tuple[float, float]
) -> None:
    """Brown, Cai and DasGupta, "Interval Estimation for a Binomial Proportion", 2001: the Wilson interval."""
    assert command.Found("a", planted, noticed, judged=judged).interval == pytest.approx(interval, abs=5e-4)


def test_a_fault_that_was_not_run_is_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Scratch", FakeScratch)
    for code in (None, 2, 34, 255):
        monkeypatch.setattr(FakeScratch, "CODES", {"a.x_f__mutmut_0": code})
        with pytest.raises(MutmutError, match="x_f__mutmut_0 was not run"):
            command.look(Room("a", ("a.py",), ("tests/a",)), set(), None, 0, 2)


def test_of_files_that_differ_those_without_faults_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "model/engine.py\nmodel/kernels/triton_linear.py\nmodel/__init__.py\n"
    monkeypatch.setattr(command.subprocess, "run", lambda *_, **__: Mock(stdout=listed))
    assert command.changed() == ["model/engine.py"]


def test_the_command_prints_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "Scratch", FakeScratch)
    assert command.main(["model/scheduling"]) == 0
    assert "| model/scheduling | 5 | 2 | 1 | 0 | 40% | 40% to 40% |" in capsys.readouterr().out
    assert command.main(["model/scheduling", "--sample", "5"]) == 0
    assert "| model/scheduling | 5 | 2 | 1 | 0 | 40% | 12% to 77% |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["model/pico"])
    assert "model/pico is no file" in capsys.readouterr().err
