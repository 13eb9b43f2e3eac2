"""A copy of the project in which mutmut plants its faults: the checkout is left as it is."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.mutation.haste import FAILED
from tests.mutation.rooms import COUNTING, PACKAGES, ROOT, Room

SETTINGS = """
[tool.mutmut]
source_paths = {sources}
only_mutate = {files}
also_copy = {others}
pytest_add_cli_args = {options}
pytest_add_cli_args_test_selection = {tests}
do_not_mutate_patterns = {prose}
type_check_command = {types}
use_git_change_detection = false
track_dependencies = false
process_isolation = "forkserver"
timeout_constant = 10.0
"""
"""https://mutmut.readthedocs.io. Its other way forks from the process that has run the tests once: there a test waits
for ever for OpenMP's threads, which the copy lacks, and is taken for one that noticed."""

PROSE = r"""^\s*(raise \w+\(|logger\.\w+\(|epilog=)?f?"[^"]*\w \w+ \w"""
"""A line that is, or raises or logs, a sentence: tests ask for a word or two of what people read."""

_OPTIONS = (
    *("-m", "not e2e and not faults", "-p", "no:cacheprovider", "-p", "no:randomly", "--no-header"),
    *("-p", "tests.mutation.haste"),
    *(f"--ignore-glob={pattern}" for pattern in COUNTING),
)

UNNOTICED = frozenset({0, 5, 33})
"""mutmut's exit codes: all tests have passed, or none runs the function."""

BY_TYPES = 37
"""The type checker notices it, which `make test` runs before the tests."""

NOTICED = frozenset({BY_TYPES, 1, 3, -24, 24, 152, 36, -11, -9})
"""Or a test has failed, pytest has, it took too long, it crashed. Else it was not run: not begun, interrupted, skipped,
or pytest did not find a test by its name, as one with a backslash."""

_PATIENCE = 10, 30.0
"""A test is given up after so many times what the longest takes without a fault, and so many seconds at least. mutmut
itself waits for fifteen times what all tests of the function take."""


_SPINNER = re.compile(r"^[\u2800-\u28ff] [A-Z][\w ]*\n", re.MULTILINE)
"""Ten times a second: it says that it is at work, and would be all that is seen of what failed."""


class MutmutError(RuntimeError):
    """mutmut has failed; the message is the end of what it said."""


class Scratch:
    """One room's. directory: is made anew."""

    def __init__(self, directory: Path, room: Room) -> None:
        self.directory = directory
        self.room = room
        shutil.rmtree(directory, ignore_errors=True)
        names = _tracked()
        for name in names:
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        others = sorted({name.partition("/")[0] for name in names} - {*PACKAGES, "tests", "pyproject.toml"})
        lists = {"sources": PACKAGES, "files": room.sources, "others": others, "tests": room.tests}
        types = (sys.executable, "-m", "tests.mutation.typed", "mypy", *room.sources)
        lists |= {"options": _OPTIONS, "prose": [PROSE], "types": types}
        with (directory / "pyproject.toml").open("a") as file:
            file.write(SETTINGS.format(**{name: json.dumps(list(values)) for name, values in lists.items()}))

    def plant(self) -> list[str]:
        """The names of all faults; which tests run which function is known from now on."""
        end = self._mutmut("run", "--max-children", "1", "none*", check=False)
        if "nothing matches" not in end:
            failed = self.directory / "mutants" / FAILED
            raise MutmutError(end + (failed.read_text() if failed.is_file() else ""))
        return sorted(self.codes())

    def run(self, names: Sequence[str], workers: int) -> None:
        """Raises MutmutError."""
        self._mutmut("run", "--max-children", str(workers), *names, PYTEST_TIMEOUT=str(self._longest_seconds()))

    def _longest_seconds(self) -> float:
        """That a test may take."""
        known = json.loads((self.directory / "mutants" / "mutmut-stats.json").read_text())["duration_by_test"]
        times, least = _PATIENCE
        return max(least, times * max(known.values()))

    def codes(self) -> dict[str, int | None]:
        """By fault: None where it was not run."""
        found: dict[str, int | None] = {}
        for file in sorted((self.directory / "mutants").rglob("*.py.meta")):
            found |= json.loads(file.read_text())["exit_code_by_key"]
        return found

    def lines(self, name: str) -> tuple[str, str, str]:
        """The file of a fault, and the lines before and after. Raises MutmutError."""
        return read_diff(self._mutmut("show", name))

    def _mutmut(self, *arguments: str, check: bool = True, **environment: str) -> str:
        log = self.directory / "mutmut.log"
        # forks do not get to remove what their tests have written
        with log.open("w") as file, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as written:
            mutmut = subprocess.Popen(
                [Path(sys.executable).with_name("mutmut"), *arguments],
                cwd=self.directory,
                # the same examples of hypothesis each time
                env={**os.environ, "PYTHONPATH": "", "CI": "1", "PYTEST_DEBUG_TEMPROOT": written, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = mutmut.wait()
            finally:  # a test that was given up has left what it had started
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(mutmut.pid, signal.SIGKILL)
                mutmut.wait()
        said = _SPINNER.sub("", log.read_text(errors="replace").replace("\r", "\n"))
        if code and check:
            raise MutmutError(said[-4000:])
        return said


def read_diff(text: str) -> tuple[str, str, str]:
    """File, lines before, lines after, of a unified diff."""
    file, before, after = "", list[str](), list[str]()
    for line in text.splitlines():
        if line.startswith("--- "):
            file = line[4:].strip()
        elif line.startswith("-"):
            before.append(line[1:].strip())
        elif line.startswith("+") and not line.startswith("+++ "):
            after.append(line[1:].strip())
    if not file:
        raise MutmutError(text[-4000:])
    return file, "\n".join(before), "\n".join(after)


def _tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return list(_files(listed.split("\0")))


def _files(names: Sequence[str]) -> Iterator[str]:
    return (name for name in names if name and (ROOT / name).is_file())
