"""Planted faults that the type checker notices, told apart from what it says of the code around them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mutation import typed

PLANTED = """\
from __future__ import annotations
import nowhere
from mutmut.mutation.trampoline import wrap_in_trampoline as _mutmut_mutated, MutantDict
mutants_x_area__mutmut: MutantDict = {}  # type: ignore
mutants_x_half__mutmut: MutantDict = {}  # type: ignore

@_mutmut_mutated(mutants_x_area__mutmut)
def area(width: int, height: int) -> int:
    return width * height

def x_area__mutmut_orig(width: int, height: int) -> int:
    return width * height

def x_area__mutmut_1(width: int, height: int) -> int:
    return width / height

def x_area__mutmut_2(width: int, height: int) -> int:
    return width + height

class Room:
    @_mutmut_mutated(mutants_x_half__mutmut)
    def half(self) -> int:
        area = self.size
        return area(2, 3) + nowhere.none()

    def xǁRoomǁhalf__mutmut_orig(self) -> int:
        area = self.size
        return area(2, 3) + nowhere.none()

    def xǁRoomǁhalf__mutmut_1(self) -> int:
        area = self.size
        return area(2, ) + nowhere.none()

def x_floor__mutmut_orig(text: str) -> int:
    return area(2, 3)

def x_floor__mutmut_1(text: str) -> int:
    return area(2, )

async def x_floor__mutmut_2(text: str) -> int:
    return area(2, 3)

def x_floor__mutmut_3(text: str) -> int:
    return area(2, None)
"""


def test_of_what_the_checker_says_only_faults_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A function keeps its types inside mutmut's wrapper; what was wrong before is nobody's fault."""
    (tmp_path / "room" / "mutants").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "room" / "mutants")
    Path("a.py").write_text(PLANTED, encoding="utf-8")
    assert typed.main(["mypy", "a.py"]) == 0
    places = list(typed.places(PLANTED))
    told = []
    for line in capsys.readouterr().out.splitlines():
        error = json.loads(line)
        told += [(place.name, error["code"]) for place in places if place.first <= error["line"] <= place.last]
    assert told == [
        ("x_area__mutmut_1", "return-value"),
        ("x_floor__mutmut_1", "call-arg"),
        ("x_floor__mutmut_3", "arg-type"),
    ]
    assert (tmp_path / ".mypy_cache").is_dir()


def test_a_checker_that_fails_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "room" / "mutants").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "room" / "mutants")
    assert typed.main(["mypy", "nothing.py"]) == 2
    assert "nothing.py" in capsys.readouterr().err
