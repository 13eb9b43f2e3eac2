"""What runs inside a sandbox, with the standard library alone: it binds itself, runs one program, and says how it went.

Its standard input holds the length of an order (8 digits), the order (JSON), and a nonce; its standard output leads to
the judge. The nonce stays in its pipe, and out of this process, until the program has come to its end: only what reads
it then can say that it passed.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

READY = b"ready\n"
LENGTH_DIGITS = 8
NONCE_BYTES = 32
_OPEN_FILES = 64
_LONGEST_NAME = 80
_SET_DUMPABLE = 4
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_MAKE_BLOCK = 1 << 11
"""Of prctl(2), syscalls(2) and landlock(7)."""


class Missing(Exception):
    """A program that the order needs is not here."""


def main() -> None:
    order = json.loads(_read(0, int(_read(0, LENGTH_DIGITS))))
    nonce, judge = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    bind(order)
    sys.path += order["packages"]
    os.write(judge, READY)
    try:
        run(order)
    except Missing as error:
        os.write(judge, f"missing: {error}\n".encode())
    except BaseException as error:  # SystemExit too: whoever leaves early has not passed
        os.write(judge, f"failed: {type(error).__name__[:_LONGEST_NAME]}\n".encode("ascii", "replace"))
    else:
        os.write(judge, os.read(nonce, NONCE_BYTES) + b"\n")
    os._exit(0)


def bind(order: dict[str, Any]) -> None:
    """Limits that no child can lift, and another user where this one is root."""
    seconds, memory, files = order["cpu_seconds"], order["memory_bytes"], order["file_bytes"]
    address_space = resource.RLIMIT_AS if order["whole_address_space"] else resource.RLIMIT_DATA
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (address_space, memory),
        (resource.RLIMIT_FSIZE, files),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, order["processes"]),
    ):
        if most is not None:
            resource.setrlimit(what, (most, most))
    if (user := order["user"]) is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def hide() -> Callable[[], None] | None:
    """What commands run is of this process's user, and would open its pipes below /proc; what they have to do, too.

    A sandbox that looks into its processes does not let them hide: there, commands have a Landlock domain of their own.
    """
    return domain if ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0) else None


def domain() -> None:
    """Landlock keeps whoever is in it out of processes that are not. Raises OSError."""
    libc = ctypes.CDLL(None)
    rules = libc.syscall(_CREATE_RULESET, ctypes.byref(ctypes.c_uint64(_MAKE_BLOCK)), ctypes.c_size_t(8), 0)
    if rules < 0 or libc.syscall(_RESTRICT_SELF, rules, 0):
        raise OSError
    os.close(rules)


def run(order: dict[str, Any]) -> None:
    """Raises what the program raises. Of commands: CalledProcessError, TimeoutExpired, Missing."""
    if not order["commands"]:
        exec(compile(order["program"], "<program>", "exec"), {})
        return
    with open(order["file"], "w", encoding="utf-8") as file:
        file.write(order["program"])
    hidden = hide()
    for command, seconds in order["commands"]:
        try:
            subprocess.run(command, check=True, stdin=0, stdout=1, stderr=2, timeout=seconds, preexec_fn=hidden)
        except FileNotFoundError:
            raise Missing(command[0]) from None


def _read(source: int, length: int) -> bytes:
    """Exactly so many bytes, and none of what follows them."""
    found = b""
    while len(found) < length:
        if not (piece := os.read(source, length - len(found))):
            raise EOFError
        found += piece
    return found


if __name__ == "__main__":
    main()
