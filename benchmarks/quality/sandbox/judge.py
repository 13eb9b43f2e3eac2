"""One program, one sandbox: whether it came to its end."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from benchmarks.quality.sandbox import guest
from benchmarks.quality.sandbox.program import Limits, Program

START_S = 30.0
"""Until the guest has to be ready; the program's own time begins then."""
LEAVE_S = 10.0
SCRATCH = "starcoder-scratch-"
LONGEST_WORD = 4096
GUEST = Path(guest.__file__).read_text()


class SandboxError(RuntimeError):
    """There is no sandbox, or it failed: this says nothing of the program."""


@dataclass(frozen=True)
class Verdict:
    """why: `passed`, `failed: ` and the error's name, `timed out`, or `died`."""

    passed: bool
    why: str


@dataclass(frozen=True)
class Room:
    """What a sandbox shows of the machine. readable: files and folders. scratch: an empty folder, removed later."""

    readable: tuple[Path, ...]
    scratch: Path
    limits: Limits


class Sandbox(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def user(self) -> int | None:
        """Whom the guest has to become, where it starts as root."""

    @property
    def counts_processes(self) -> bool:
        """Whether it limits their number itself. The kernel's limit counts all of a user's outside of a namespace."""

    def command(self, inside: Sequence[str], room: Room) -> list[str]:
        """What runs `inside` in the sandbox, with its standard input, output and error. Without network, on a
        machine that can only be read, and gone with all its processes when this command ends, or is told to (SIGTERM).
        """


def judge(sandbox: Sandbox, program: Program) -> Verdict:
    """Raises SandboxError where the sandbox does not start, or has no compiler for the program's language.

    However the program behaves, this takes no longer than its time, START_S and LEAVE_S, and leaves nothing.
    """
    nonce = secrets.token_hex(guest.NONCE_BYTES // 2).encode()
    order = _order(sandbox, program)
    with (
        tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-") as scratch,
        tempfile.TemporaryFile() as complaints,
    ):
        room = Room(readable(packages=program.packages), Path(scratch), program.limits)
        with _started(sandbox.command(_interpreter(), room), scratch, complaints) as process:
            words = _converse(process, b"%0*d" % (guest.LENGTH_DIGITS, len(order)) + order + nonce, program.limits)
        if not words.startswith(guest.READY):
            complaints.seek(0)
            raise SandboxError(
                f"{sandbox.name} does not start: {complaints.read(2000).decode(errors='replace').strip()}"
            )
    return _verdict(words.removeprefix(guest.READY), nonce, program)


def readable(*, packages: bool) -> tuple[Path, ...]:
    """What programs need of the machine: the system's programs, and this Python. No home, no configuration, no data."""
    system = [
        "/usr",
        "/bin",
        "/lib",
        "/lib64",
        "/sbin",
        "/etc/alternatives",
        "/etc/ld.so.cache",
        "/etc/ssl/openssl.cnf",
    ]
    system += [str(path) for path in Path("/etc").glob("java-*")]
    own = [sys.base_prefix, *(_packages() if packages else [])]
    found: list[Path] = []
    for path in map(Path, [*system, *own]):
        if path.exists() and not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return tuple(found)


def _packages() -> list[str]:
    return [os.path.realpath(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))]


def _interpreter() -> list[str]:
    """Not that of an environment, whose packages would come along."""
    return [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", GUEST]


def _order(sandbox: Sandbox, program: Program) -> bytes:
    limits = program.limits
    order = {
        "program": program.text,
        "file": program.file,
        "commands": [[command.argv, command.seconds] for command in program.commands],
        "packages": _packages() if program.packages else [],
        "user": sandbox.user,
        "cpu_seconds": math.ceil(limits.seconds) + 1,
        "memory_bytes": limits.memory_bytes,
        "whole_address_space": limits.whole_address_space,
        "file_bytes": limits.scratch_bytes,
        "processes": None if sandbox.counts_processes else limits.processes,
    }
    return json.dumps(order).encode()


@contextlib.contextmanager
def _started(command: Sequence[str], scratch: str, complaints: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a group of its own, which is ended on every path; what has not gone in time is killed."""
    process = subprocess.Popen(
        command,
        cwd=scratch,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        env={"PATH": os.defpath, "HOME": scratch, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LEAVE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _converse(process: subprocess.Popen[bytes], order: bytes, limits: Limits) -> bytes:
    """Give the order and hear what is said: until its end, a whole word after `ready`, too much of it, or its time."""
    assert process.stdin is not None
    assert process.stdout is not None
    source, sink = process.stdout.fileno(), process.stdin.fileno()
    os.set_blocking(sink, False)
    words, deadline = b"", time.monotonic() + START_S
    poll = select.poll()
    poll.register(source, select.POLLIN)
    poll.register(sink, select.POLLOUT)
    while len(words) < LONGEST_WORD and words.count(b"\n") < 2:
        ready = {descriptor for descriptor, _ in poll.poll(max(0, deadline - time.monotonic()) * 1000)}
        if not ready:
            return words + b"timed out\n" if words else words
        if sink in ready:
            try:
                order = order[os.write(sink, order) :]
            except BrokenPipeError:
                order = b""
            if not order:
                poll.unregister(sink)
        if source in ready:
            if not (piece := os.read(source, LONGEST_WORD)):
                break
            if not words:
                deadline = time.monotonic() + limits.seconds
            words += piece
    return words


def _verdict(word: bytes, nonce: bytes, program: Program) -> Verdict:
    """Where commands are run, only the guest has the pipe; Python runs within it, and may say whatever it likes."""
    if secrets.compare_digest(word, nonce + b"\n"):
        return Verdict(True, "passed")
    said = word.decode("ascii", "replace").strip()
    if program.commands and said.startswith("missing: "):
        raise SandboxError(f"{said.removeprefix('missing: ')} is not installed where sandboxes see it (below /usr)")
    if said == "timed out" or (said.startswith("failed: ") and "\n" not in said):
        return Verdict(False, "timed out" if said == "failed: TimeoutExpired" else said)
    return Verdict(False, "died")
