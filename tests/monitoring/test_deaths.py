"""Who ends without a word is counted once, whoever notices, and whenever that one is interrupted."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.allocated import AllocatedDict
from monitoring.merged import MergedFiles
from monitoring.metrics import PROCESS_DEATHS
from monitoring.process import render
from monitoring.shared_directory import SharedDirectory

ROOT = Path(__file__).parents[2]
SERIES = PROCESS_DEATHS.key("m", "engine")
OTHER = PROCESS_DEATHS.key("m", "ingress")


class Interrupted(Exception):
    """Whoever swept was killed."""


class Processes:
    """Made-up ones: a file of counters, and a file of its life that is locked while it lives."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lives: dict[str, int] = {}
        self._started = 0

    def start(self, key: str) -> None:
        name = f"7-{self._started}"
        self._started += 1
        counters = AllocatedDict(str(self._directory / f"counter_{name}.db"))
        counters.write_value(key, 0.0, 0.0)
        counters.close()
        self._lives[name] = os.open(self._directory / f"{name}.alive", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._lives[name], fcntl.LOCK_EX)
        os.write(self._lives[name], key.encode())

    def end(self, farewell: bool) -> None:
        """The oldest one ends."""
        life = self._lives.pop(next(iter(self._lives)))
        if farewell:
            os.ftruncate(life, 0)
        os.close(life)

    def close(self) -> None:
        while self._lives:
            self.end(farewell=True)


def deaths(directory: Path, key: str) -> float:
    merged = MergedFiles("starcoder_")
    merged.read(sorted(directory.glob("*.db")))
    process = "engine" if key == SERIES else "ingress"
    line = f'starcoder_process_deaths_total{{model="m",process="{process}"}} '
    return sum(float(found.removeprefix(line)) for found in merged.text().splitlines() if found.startswith(line))


@contextmanager
def interrupted_at(change: int) -> Iterator[None]:
    """The process is killed when it is about to change the directory for the `change`-th time."""
    left = change

    def counted(original: object) -> object:
        def call(path: Path, *arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Interrupted
            return original(path, *arguments, **options)  # type: ignore[operator]

        return call

    with (
        mock.patch.object(Path, "unlink", counted(Path.unlink)),
        mock.patch.object(Path, "rename", counted(Path.rename)),
        mock.patch.object(Path, "write_text", counted(Path.write_text)),
    ):
        yield


rounds = st.lists(
    st.tuples(
        st.lists(st.sampled_from([SERIES, OTHER]), max_size=2),
        st.lists(st.booleans(), max_size=3),
        st.integers(0, 12),
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(rounds)
def test_each_death_is_counted_once_and_no_end_in_order(rounds: list[tuple[list[str], list[bool], int]]) -> None:
    """In each round some start, some end (True: killed), and who sweeps is killed at some change of the directory."""
    killed = {SERIES: 0, OTHER: 0}
    living: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        shared, processes = SharedDirectory(directory), Processes(directory)
        for starting, ending, interruption in rounds:
            for key in starting:
                processes.start(key)
            living += starting
            for is_killed in ending[: len(living)]:
                processes.end(farewell=not is_killed)
                killed[living.pop(0)] += is_killed
            with suppress(Interrupted), interrupted_at(interruption):
                shared.sweep()
        for _ in range(2):
            shared.sweep()
            assert {key: deaths(directory, key) for key in killed} == killed
        assert len(list(directory.glob("*.alive"))) == len(living)
        processes.close()


def test_who_expects_a_farewell_is_counted_unless_it_says_it(tmp_path: Path) -> None:
    """In this process: its lock is let go of as the kernel would."""
    for is_killed in (True, False):
        shared = SharedDirectory(tmp_path)
        shared.farewell()  # nothing is expected yet
        shared.expect_farewell(SERIES)
        assert (tmp_path / f"{shared.identifier()}.alive").read_text() == SERIES
        assert shared.alive()
        if not is_killed:
            shared.farewell()
        shared._let_go()
        assert not shared.alive()
        shared.sweep()
        assert deaths(tmp_path, SERIES) == 1
    assert not list(tmp_path.glob("*.alive"))


SCRIPT = """
import os, signal, sys
from pathlib import Path
from monitoring.process import expect_farewell, farewell, init
init(Path(sys.argv[1]))
expect_farewell("ingress", "pico")
if os.fork() == 0:
    farewell()
    os._exit(0)
os.wait()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as Ray's workers do
print("ready", flush=True)
sys.stdin.readline()
farewell()
os._exit(0)
"""


@pytest.mark.parametrize(("how", "counted"), [("killed", 1), ("asked to end", 0), ("ended", 0)])
def test_a_real_process(tmp_path: Path, how: str, counted: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    series = 'starcoder_process_deaths_total{model="pico",process="ingress"}'
    assert f"{series} 0.0" in render(tmp_path).decode()
    if how == "killed":
        process.send_signal(signal.SIGKILL)
    if how == "asked to end":
        process.terminate()
    process.communicate("\n" if how == "ended" else None, timeout=120)
    for _ in range(2):
        assert f"{series} {counted}.0" in render(tmp_path).decode()
