"""A plugin of pytest for mutmut's fork server: what that has collected, its forks run.

mutmut lets pytest collect before it forks, so that all is imported; each fork calls pytest again, which collects once
more, for longer than most tests take. Here the fork server keeps the session, and a fork goes on with it: fixtures,
directories and what is captured are its own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> pytest.ExitCode | None:
    """Whatever mutmut has collected without running it: it does so in the fork server, and to list all tests, in a
    process that then ends."""
    harness = sys.modules.get("mutmut.runners.harness")
    if harness is None or not config.option.collectonly:
        return None
    config.option.collectonly = False
    session = pytest.Session.from_config(config)
    config._do_configure()
    config.hook.pytest_sessionstart(session=session)
    config.hook.pytest_collection(session=session)
    if session.testsfailed:
        return pytest.ExitCode.INTERRUPTED
    keep(session)
    harness.PytestRunner.run_tests = lambda runner, *, mutant_name, tests: int(run(session, tests))
    return pytest.ExitCode.OK


def keep(session: pytest.Session) -> None:
    """As it is, when pytest ends here."""
    _capture(session).stop_global_capturing()
    session.config._ensure_unconfigure = lambda: None  # type: ignore[method-assign]


def run(session: pytest.Session, names: Iterable[str]) -> pytest.ExitCode:
    """Those tests of a session that was kept, in its order, until one fails; once in a process.

    Raises LookupError where a test was not collected, as pytest would for such a name.
    """
    wanted = set(names)
    session.items = [item for item in session.items if item.nodeid in wanted]
    session.testscollected = len(session.items)
    if session.testscollected < len(wanted):
        raise LookupError(f"not collected: {wanted - {item.nodeid for item in session.items}}")
    config = session.config
    config.option.maxfail = 1
    config._tmp_path_factory._basetemp = None  # type: ignore[attr-defined]
    _capture(session).start_global_capturing()
    _capture(session).suspend_global_capture()
    with contextlib.chdir(session.startpath):
        session.exitstatus = _run(session)
        try:
            config.hook.pytest_sessionfinish(session=session, exitstatus=session.exitstatus)
        except Exception:  # what a fixture of many tests had to end
            session.exitstatus = session.exitstatus or pytest.ExitCode.INTERNAL_ERROR
    return pytest.ExitCode(session.exitstatus)


def _run(session: pytest.Session) -> pytest.ExitCode:
    """As `_pytest.main.wrap_session` has it."""
    try:
        session.config.hook.pytest_runtestloop(session=session)
    except session.Failed:
        return pytest.ExitCode.TESTS_FAILED
    except (KeyboardInterrupt, pytest.exit.Exception):
        return pytest.ExitCode.INTERRUPTED
    except BaseException:
        return pytest.ExitCode.INTERNAL_ERROR
    if session.testsfailed:
        return pytest.ExitCode.TESTS_FAILED
    return pytest.ExitCode.OK if session.items else pytest.ExitCode.NO_TESTS_COLLECTED


def _capture(session: pytest.Session) -> Any:
    return session.config.pluginmanager.getplugin("capturemanager")
