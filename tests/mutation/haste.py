"""A plugin of pytest for runs that ask only whether some test fails, as quickly as can be told.

The tests that mutmut found quickest go first. A test by examples sees a quarter of them, and nobody looks for the
smallest one that fails, which takes minutes.

What a fixture of many tests runs, mutmut holds for run by the first of them alone: here it is run by each. What Alembic
loads has the name that mutmut plants faults under.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import Phase, settings

TIMES = Path("mutmut-stats.json")
"""In the folder in which mutmut runs the tests; it is not there before they have been timed."""

FAILED = Path("mutmut-failed.txt")
"""There too: the test that failed last, and what it said; mutmut itself keeps it to itself."""

Load = Callable[[str, str | os.PathLike[str]], ModuleType]

_SETTINGS = "_hypothesis_internal_use_settings"
_LEAST_EXAMPLES = 10

_run_by: dict[pytest.FixtureDef[Any], set[str]] = {}
"""By fixture of more than one test, the functions that it ran when it was made."""


def pytest_configure() -> None:
    """Nobody asks mutmut which function calls which (`track_dependencies`). It would keep it in a context variable, and
    CPython crashes where the garbage collector, while a variable is set, ends a generator that sets one:
    https://github.com/python/cpython/issues/148891."""
    if mutmut := sys.modules.get("mutmut.core"):
        mutmut.MutmutCallStack.set = mutmut.MutmutCallStack.reset = staticmethod(lambda _: None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if pyfiles := sys.modules.get("alembic.util.pyfiles"):
        pyfiles.load_module_py = named_as_in_a_package(pyfiles.load_module_py, config.rootpath)
    for item in items:
        hasten(getattr(item, "obj", None))
        forget_names(item)
    seconds = json.loads(TIMES.read_text())["duration_by_test"] if TIMES.is_file() else {}
    items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))


def pytest_exception_interact(
    node: pytest.Item | pytest.Collector, report: pytest.TestReport | pytest.CollectReport
) -> None:
    (node.config.rootpath / FAILED).write_text(f"{report.nodeid}\n{report.longreprtext}\n")


def hasten(test: Any) -> None:
    """Once, whoever asks again. Changes nothing of a test without examples."""
    test = getattr(test, "__func__", test)
    asked = getattr(test, _SETTINGS, None)
    if isinstance(asked, settings) and Phase.shrink in asked.phases:
        setattr(
            test,
            _SETTINGS,
            settings(
                asked,
                max_examples=min(asked.max_examples, max(asked.max_examples // 4, _LEAST_EXAMPLES)),
                phases=(Phase.explicit, Phase.generate),
                report_multiple_bugs=False,
            ),
        )


def forget_names(item: pytest.Item) -> None:
    """pytest keeps what a test's parameters are called, escaped, and escapes it again where it collects once more in a
    process forked from this one: it would not find the test by the name that it had."""
    for mark in item.iter_markers("parametrize"):
        if mark._param_ids_from is not None and not isinstance(mark.kwargs.get("ids"), Iterator):
            object.__setattr__(mark._param_ids_from, "_param_ids_generated", None)


def named_as_in_a_package(load: Load, root: Path) -> Load:
    """Alembic calls a migration after its file alone: mutmut would not know that what it planted runs."""

    def load_module_py(module_id: str, path: str | os.PathLike[str]) -> ModuleType:
        if (file := Path(path)).is_relative_to(root):
            module_id = ".".join(file.relative_to(root).with_suffix("").parts)
        return load(module_id, path)

    return load_module_py


def functions_run() -> set[str] | None:
    """In which mutmut notes what runs, until the test ends; None where it does not."""
    state = sys.modules.get("mutmut.state")
    return None if state is None else state.state()._stats


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
    run = functions_run()
    if run is None or fixturedef.scope == "function":
        return (yield)
    before = set(run)
    run.clear()
    try:
        return (yield)
    finally:
        _run_by.setdefault(fixturedef, set()).update(run)
        run |= before


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    run = functions_run()
    if run is not None:
        for fixtures in item._fixtureinfo.name2fixturedefs.values():
            run.update(*(_run_by.get(fixture, ()) for fixture in fixtures))
