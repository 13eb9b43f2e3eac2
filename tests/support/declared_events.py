"""Every line of the log that a test has our code write is as it is declared, whether the test looks at it or not."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from typing import Any

import msgspec
import pytest

from monitoring import events, logs

_faults: list[str] = []
_write = logs.event


def _event(name: str, message: str = "", *, level: int = logging.INFO, **fields: Any) -> None:
    # What a test writes itself is about the log, not about what is in it.
    if not sys._getframe(1).f_globals["__name__"].startswith("tests."):
        told = {"event": name, "level": logging.getLevelName(level).lower(), "message": message or None, **fields}
        line = {name: value for name, value in told.items() if value is not None}
        _faults.extend(events.wrong(msgspec.to_builtins(line, enc_hook=str)))
    _write(name, message, level=level, **fields)


logs.event = _event


@pytest.hookimpl(wrapper=True)
def _checked() -> Generator[None, None, None]:
    yield
    faults = _faults[:]
    _faults.clear()
    assert faults == [], "lines of the log are not as monitoring/events.py declares them"


pytest_runtest_setup = pytest_runtest_call = pytest_runtest_teardown = _checked
