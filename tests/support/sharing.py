"""How pytest-xdist's workers share the tests, and which of them run one after the other in the same worker.

Clusters wait most of the time, but need the cores in between, so there are two at a time: the one of two ranks, and,
one after the other, those that are made otherwise. The browser, PostgreSQL, other people's clients and what runs
Triton's programs are started once.
Other tests stay with those of their file.

A cluster takes 20 seconds of a core to start and a tenth of one to idle: tests share it, and whoever needs its end
(`@pytest.mark.last`) takes one that others have used, and comes after them. Others end with their room.
"""

from __future__ import annotations

import fcntl
import gc
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

_TWO_RANKS, _OTHERS = "a cluster of two ranks", "other clusters"
_DATABASE, _BROWSER, _CLIENTS = "PostgreSQL", "a browser", "other people's clients"
_TRITON = "Triton's programs"
_ONE_SERVER = (
    ("tests/e2e/test_replicas.py", "tests/faults/test_takeover.py"),
    ("tests/e2e/test_sign_on.py", "tests/e2e/test_teams.py", "tests/faults/test_ledger.py"),
    ("tests/e2e/test_own_proxy.py", "tests/faults/test_no_engine.py"),
)
"""Files that share one of tests/support/servers.py, in their order: the last of them ends it."""
_ROOMS = {
    **{file: _OTHERS for files in _ONE_SERVER for file in files},
    "tests/e2e/test_counters.py": _OTHERS,
    "tests/clients/test_on_the_cluster.py": _TWO_RANKS,
    "tests/e2e/": _TWO_RANKS,
    "tests/faults/test_failures.py": _TWO_RANKS,
    "tests/faults/": _OTHERS,
    "tests/clients/": _CLIENTS,
    "tests/deployments/playground/": _BROWSER,
    "tests/deployments/teams/test_store": _DATABASE,
    "tests/deployments/teams/test_drainer.py": _DATABASE,
    "tests/deployments/command/test_admin_secret.py": _DATABASE,
    "tests/model/kernels/": _TRITON,
    "tests/model/backends/test_all_reduce.py": _TRITON,
    "tests/model/test_striped_cache.py": _TRITON,
    "tests/model/test_draft_model.py": _TRITON,
    "tests/benchmarks/engine/test_linear.py": _TRITON,
    "tests/benchmarks/engine/gpu/test_fused_all_reduce.py": _TRITON,
}
"""Start of the path: room. The first that fits counts; on clusters files come in this order, too."""
_LONG = (
    *(_OTHERS, _TWO_RANKS, _BROWSER, _TRITON, _CLIENTS, _DATABASE),
    *("tests/deployments/api/test_fuzz.py", "tests/deployments/api/openai/organization/test_fuzz.py"),
)
"""Rooms that come before all others, wherever chance would have them: at the end, one core would wait for the last."""


def room(nodeid: str) -> str:
    return _ROOMS.get(_start(nodeid), nodeid.partition("::")[0])


def _start(nodeid: str) -> str:
    return next((start for start in _ROOMS if nodeid.startswith(start)), "")


_T = TypeVar("_T")


class _Shared:
    """What the tests of a room share, from the first that asks for it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._known: dict[str, Any] = {}

    def get(self, name: str, make: Callable[[], AbstractContextManager[_T]]) -> _T:
        if name not in self._known:
            self._known[name] = self._stack.enter_context(make())
        found: _T = self._known[name]
        return found

    def end(self) -> None:
        self._known.clear()
        self._stack.close()


_SHARED = pytest.StashKey[_Shared]()


def shared(config: pytest.Config, name: str, make: Callable[[], AbstractContextManager[_T]]) -> _T:
    """What `make` made for an earlier test of this room; what it makes now ends after the room's last test."""
    return config.stash[_SHARED].get(name, make)


def end_shared(config: pytest.Config) -> None:
    """Of the last room, or where a run ends before its rooms."""
    config.stash[_SHARED].end()


class _Garbage:
    """Looked for between rooms, now and then; what is left stays, and is not looked through again.

    Python by itself would look through all that a worker has come to hold, millions of objects, whenever there are some
    more: a third of a second each time.
    """

    _EVERY_CPU_S = 8.0
    _THRESHOLDS = (10_000, 20, 50)  # of Python 3.11: 700, 10, 10

    def __init__(self) -> None:
        self._looked_at = 0.0
        gc.set_threshold(*self._THRESHOLDS)

    def room_ends(self) -> None:
        if time.process_time() >= self._looked_at + self._EVERY_CPU_S:
            self.put_away()

    def put_away(self) -> None:
        gc.collect()
        gc.freeze()
        self._looked_at = time.process_time()


_GARBAGE = pytest.StashKey[_Garbage]()


@pytest.fixture(scope="module")
def only_new_garbage(request: pytest.FixtureRequest) -> None:
    """For what looks for garbage itself."""
    request.config.stash[_GARBAGE].put_away()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SHARED] = _Shared()
    config.stash[_GARBAGE] = _Garbage()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is not None and room(nextitem.nodeid) != room(item.nodeid):
        end_shared(item.config)
        item.config.stash[_GARBAGE].room_ends()


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """What is collected and imported stays: garbage is not looked for meanwhile, nor among it later."""
    plugins = session.config.pluginmanager
    with turn(session.config) as let_others_begin:
        files = sum(1 for _ in (session.config.rootpath / "tests").rglob("test_*.py"))
        plugins.register(ahead := _Ahead(files // 2, let_others_begin))
        gc.disable()
        try:
            return (yield)
        finally:
            gc.freeze()
            gc.enable()
            plugins.unregister(ahead)


class _Ahead:
    """A plugin of who collects: when it has done with so many files, the others begin, and do not come up with it."""

    def __init__(self, files: int, let_others_begin: Callable[[], None]) -> None:
        self._left, self._let_others_begin = files, let_others_begin

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._left -= report.nodeid.endswith(".py")
        if self._left == 0:
            self._let_others_begin()


@contextmanager
def turn(config: pytest.Config) -> Iterator[Callable[[], None]]:
    """One worker begins to collect before all others: what Python compiles and pytest rewrites, which takes longer than
    the rest, those find done. Gives what lets them begin before it has ended."""
    if not hasattr(config, "workerinput") or sys.dont_write_bytecode:
        yield lambda: None
        return
    file = Path(config.option.basetemp).parent / "collected"
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def let_others_begin() -> None:
            if not file.stat().st_size:
                lock.write("by one")
                lock.flush()
            fcntl.flock(lock, fcntl.LOCK_UN)

        if file.stat().st_size:
            let_others_begin()
        try:
            yield let_others_begin
        finally:
            let_others_begin()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes the longest comes first. What is marked so comes last in its file.

    Else the order is pytest-randomly's, but for tests on a cluster: what one of them does to it takes its time to pass,
    so they come as they are written. Rooms stay together, and files. Raises UsageError where two ids are one.
    """
    for item in items:
        item._nodeid = item.nodeid  # Schemathesis asks for it by the name that pytest gave up
    if twice := [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]:
        raise pytest.UsageError(f"tests with the same id: {twice}")
    files = {item.path: number for number, item in enumerate(items)}
    written = {path: number for number, path in enumerate(sorted(files))}
    rooms = {room(item.nodeid): number for number, item in enumerate(items)}
    starts = {start: number for number, start in enumerate(_ROOMS)}

    def place(item: pytest.Item) -> tuple[int, int, int, int, bool, int]:
        name = room(item.nodeid)
        first = _LONG.index(name) if name in _LONG else len(_LONG)
        if name in (_OTHERS, _TWO_RANKS):
            start = starts[_start(item.nodeid)]
            return first, rooms[name], start, written[item.path], is_last(item), item.location[1] or 0
        return first, rooms[name], 0, files[item.path], is_last(item), 0

    items.sort(key=place)


def is_last(item: pytest.Item) -> bool:
    return item.get_closest_marker("last") is not None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    from xdist.scheduler import LoadScopeScheduling

    class ByRoom(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return room(nodeid)

    config.option.loadscopereorder = False  # the order is that of the items
    return ByRoom(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker has five seconds left, else it is interrupted; pytest would search its memory for garbage five times."""
    if hasattr(session.config, "workerinput"):
        gc.freeze()
