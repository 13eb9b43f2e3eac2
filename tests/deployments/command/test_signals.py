"""A command that is told to stop, and one that has to finish first."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from deployments.command.signals import Stopped, ignored, obeyed

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Are the test's, and afterwards those that were there before."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_of_them_stops_it(number: signal.Signals) -> None:
    with pytest.raises(Stopped), obeyed():
        os.kill(os.getpid(), number)
    assert [signal.getsignal(each) for each in SIGNALS] == [signal.SIG_IGN] * 3


def test_nothing_that_catches_errors_keeps_it() -> None:
    assert not issubclass(Stopped, Exception)


@pytest.mark.parametrize("number", SIGNALS)
def test_what_must_not_be_cut_short_is_not_and_can_be_stopped_after_it(number: signal.Signals) -> None:
    with obeyed():
        with ignored():
            os.kill(os.getpid(), number)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), number)
