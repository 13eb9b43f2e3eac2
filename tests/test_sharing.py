"""In which order tests come, and which of them stay together; what is shuffled here pytest-randomly shuffles."""

from __future__ import annotations

import queue
import random
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.sharing import (
    _LONG,
    _ONE_SERVER,
    _ROOMS,
    _Ahead,
    is_last,
    pytest_collection_modifyitems,
    room,
    turn,
)

ROOT = Path(__file__).parents[1]
FILES = (
    *("tests/e2e/test_a.py", "tests/e2e/test_b.py", "tests/faults/test_c.py", "tests/clients/test_on_the_cluster.py"),
    *("tests/clients/test_d.py", "tests/clients/test_e.py", "tests/deployments/test_f.py", "tests/model/test_g.py"),
    *("tests/deployments/playground/test_h.py", "tests/model/kernels/test_compiled_kernels.py"),
    *(file for files in _ONE_SERVER for file in files),
)


class Item:
    def __init__(self, file: str, number: int) -> None:
        self.nodeid = f"{file}::test_{number}"
        self.path = Path(file)
        self.number = number
        self.location = (file, number, self.nodeid)

    def get_closest_marker(self, name: str) -> str | None:
        return name if self.number == 0 and name == "last" else None


def ordered(seed: int) -> list[Any]:
    """Files one after the other, and the tests of each, in an order of chance; then as they run."""
    chance, files = random.Random(seed), list(FILES)
    chance.shuffle(files)
    items = [[Item(file, number) for number in range(3)] for file in files]
    for of_a_file in items:
        chance.shuffle(of_a_file)
    found: list[Any] = [item for of_a_file in items for item in of_a_file]
    pytest_collection_modifyitems(found)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_rooms_and_files_stay_together_in_any_order(seed: int) -> None:
    items = ordered(seed)
    assert len(items) == 3 * len(FILES)
    rooms = [name for name, _ in groupby(room(item.nodeid) for item in items)]
    files = [path for path, _ in groupby(item.path for item in items)]
    assert len(rooms) == len(set(rooms))
    assert len(files) == len(set(files))
    assert rooms[:3] == ["other clusters", "a cluster of two ranks", "a browser"]
    assert rooms[3:5] == ["Triton's programs", "other people's clients"]
    for _, of_a_file in groupby(items, key=lambda item: item.path):
        assert [is_last(item) for item in of_a_file] == [False, False, True]


def test_chance_orders_what_is_together() -> None:
    orders = [[item.nodeid for item in ordered(seed)] for seed in range(20)]
    assert orders[0] == [item.nodeid for item in ordered(0)]
    for kind in ("tests/deployments/test_f.py", "tests/clients/test_d.py", "tests/"):
        assert len({tuple(name for name in order if name.startswith(kind)) for order in orders}) > 1


def test_on_a_cluster_tests_come_as_they_are_written() -> None:
    for seed in range(20):
        order = [item.nodeid for item in ordered(seed) if room(item.nodeid) == "a cluster of two ranks"]
        files = ("tests/clients/test_on_the_cluster.py", "tests/e2e/test_a.py", "tests/e2e/test_b.py")
        assert order == [f"{file}::test_{number}" for file in files for number in (1, 2, 0)]


def test_files_that_share_a_server_follow_each_other() -> None:
    for seed in range(20):
        files = [file for file, _ in groupby(item.path.as_posix() for item in ordered(seed))]
        for together in _ONE_SERVER:
            first = files.index(together[0])
            assert tuple(files[first : first + len(together)]) == together


def test_what_takes_long_is_there() -> None:
    """A room without files would be looked for in vain, and the one that was meant come at any time."""
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")]
    assert set(_LONG) <= {room(file) for file in files}
    assert [start for start in _ROOMS if not any(file.startswith(start) for file in files)] == []


def test_who_runs_tritons_programs_does_so_in_one_worker() -> None:
    """Another one would import for them once more, which takes seconds."""
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    users = {file for file, source in sources.items() if re.search(r"\bTritonPrograms\b", source)}
    users.discard("tests/test_sharing.py")
    assert len(users) > 5
    assert {file: room(file) for file in users if room(file) != "Triton's programs"} == {}


def test_no_two_tests_have_one_name() -> None:
    twice: list[Any] = [Item("tests/test_a.py", 1), Item("tests/test_a.py", 1)]
    with pytest.raises(pytest.UsageError, match="same id"):
        pytest_collection_modifyitems(twice)


def test_one_worker_collects_before_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They then do so at once: each waits there for the other."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    events, both = queue.Queue[str](), threading.Barrier(2, timeout=60)

    def other(worker: Any) -> None:
        events.put("waits")
        with turn(worker):
            events.put("collects")
            both.wait()

    first, *others = (worker_of(tmp_path, number) for number in range(3))
    with ThreadPoolExecutor(2) as threads:
        with turn(first):
            ends = [threads.submit(other, worker) for worker in others]
            assert [events.get(timeout=60) for _ in others] == ["waits"] * 2
            events.put("the first has")
        for end in ends:
            end.result(60)
    assert [events.get() for _ in range(3)] == ["the first has", "collects", "collects"]


def test_others_begin_when_the_first_one_is_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    first, second = (worker_of(tmp_path, number) for number in range(2))
    begun = threading.Event()

    def other() -> None:
        with turn(second):
            begun.set()

    with ThreadPoolExecutor(1) as threads, turn(first) as let_others_begin:
        ahead = _Ahead(2, let_others_begin)
        end = threads.submit(other)
        for node in ("tests/test_a.py", "tests"):
            ahead.pytest_collectreport(SimpleNamespace(nodeid=node))
        assert not begun.wait(0.05)
        for node in ("tests/test_b.py", "tests/test_c.py"):
            ahead.pytest_collectreport(SimpleNamespace(nodeid=node))
        assert begun.wait(60)
        end.result(60)


def worker_of(directory: Path, number: int) -> Any:
    option = SimpleNamespace(basetemp=str(directory / f"popen-gw{number}"))
    return SimpleNamespace(workerinput={"workerid": f"gw{number}"}, option=option)
