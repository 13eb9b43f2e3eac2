"""Work in processes of its own: answers, failures, and that nothing is left of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from deployments.command.verify.child import Line, _answers, together
from model.config import ELSEWHERE, ConfigError
from tests.support.waiting import wait_until


def _first(number: int, line: Line) -> tuple[int, int]:
    line.say(f"here is {number}")
    return number, line.first(10 + number)


def _refuse(reason: str, line: Line) -> None:
    raise ConfigError(reason)


def _refuse_last(reason: str, line: Line) -> None:
    parent = psutil.Process().parent()
    assert parent is not None
    wait_until(lambda: not any(_is_another(one) for one in parent.children()), "the others do not end")
    raise ConfigError(reason)


def _is_another(process: psutil.Process) -> bool:
    """A child like this one, which has not ended."""
    try:
        return process.pid != os.getpid() and "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:  # it ends
        return False


def _fail(line: Line) -> None:
    raise KeyError("lost")


def _die(line: Line) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _wait(line: Line) -> None:
    line.say(str(os.getpid()))
    threading.Event().wait()


def _nobody(text: str) -> None:
    """Hears it."""


def test_all_learn_what_the_first_one_tells() -> None:
    said: list[str] = []
    assert together([partial(_first, number) for number in range(3)], said.append) == [(0, 10), (1, 10), (2, 10)]
    assert sorted(said) == ["here is 0", "here is 1", "here is 2"]


def test_one_that_answers_late_is_waited_for() -> None:
    """Longer than the process of another one is there."""
    early, early_end = multiprocessing.Pipe()
    late, late_end = multiprocessing.Pipe()
    with early, late, late_end:
        early_end.send(("answer", "at once"))
        early_end.close()
        late_end.send(("said", 0))

        def say(number: str) -> None:
            late_end.send(("said", int(number) + 1) if int(number) < 5 else ("answer", "late"))

        assert _answers([(Mock(), early), (Mock(), late)], say) == ["at once", "late"]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """But for the interpreter's own helper, and what other tests have started here."""
    before = psutil.Process().children()
    yield
    left = [process for process in psutil.Process().children() if process not in before]
    assert [process for process in left if "resource_tracker" not in " ".join(process.cmdline())] == []


@pytest.mark.parametrize(
    ("works", "error", "reason"),
    [
        ([partial(_refuse, "no such thing"), _wait], ConfigError, "no such thing"),
        ([_wait, _fail], RuntimeError, "KeyError: 'lost'"),
        ([_wait, _die], RuntimeError, "memory ran out"),
        # one knows the reason, and the other only that there is one
        ([partial(_refuse, f"it {ELSEWHERE}"), partial(_refuse, "too old")], ConfigError, "too old"),
        ([partial(_refuse, f"it {ELSEWHERE}"), partial(_refuse_last, "too old")], ConfigError, "too old"),
        ([partial(_refuse, f"it {ELSEWHERE}"), partial(_refuse_last, f"it {ELSEWHERE}")], ConfigError, ELSEWHERE),
    ],
    ids=["refused", "failed", "killed", "the rank that knows", "the last one knows", "none knows"],
)
def test_a_failure_is_told_and_the_others_end(works: list, error: type[Exception], reason: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(error, match=reason):
        together(works, _nobody)


_PARENT = """
import sys
from pathlib import Path
from deployments.command.verify.child import together
from tests.support.child_works import wait
if __name__ == "__main__":
    together([wait], lambda text: print(text, flush=True), Path(sys.argv[1]))
"""


def test_who_is_killed_leaves_neither_processes_nor_files(tmp_path: Path) -> None:
    scratch, script = tmp_path / "scratch", tmp_path / "parent.py"
    scratch.mkdir()
    (scratch / "weights").write_bytes(b"some")
    script.write_text(_PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    command = [sys.executable, str(script), str(scratch)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child lives on", 60)
    assert not scratch.exists()
