"""How pytest-xdist's workers share the tests, and which of them run one after the other in the same worker.

Clusters wait most of the time, but need the cores in between, so there are never more than two: the one that serves,
and those that are broken. The browser, PostgreSQL and other people's clients are started once. Other tests stay with
those of their file.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

_CLUSTER, _BROKEN = "a cluster", "clusters that are broken"
_LONG = "tests/model/kernels/test_compiled_kernels.py"
_ROOMS = {
    "tests/e2e/": _CLUSTER,
    "tests/faults/": _BROKEN,
    "tests/clients/test_on_the_cluster.py": _CLUSTER,
    "tests/clients/": "other people's clients",
    "tests/deployments/playground/": "a browser",
    "tests/deployments/teams/test_store": "PostgreSQL",
}
"""Start of the path: room. The first that fits counts."""


def room(nodeid: str) -> str:
    return next((name for start, name in _ROOMS.items() if nodeid.startswith(start)), nodeid.partition("::")[0])


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected and imported stays: garbage is not looked for meanwhile, nor among it later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes the longest comes first: clusters, and the compiler. Raises UsageError where two ids are one."""
    for item in items:
        item._nodeid = item.nodeid  # Schemathesis asks for it by the name that pytest gave up
    if twice := [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]:
        raise pytest.UsageError(f"tests with the same id: {twice}")
    first = [_BROKEN, _CLUSTER, _LONG]
    items.sort(key=lambda item: first.index(name) if (name := room(item.nodeid)) in first else len(first))


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
