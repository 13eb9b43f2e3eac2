"""Processes that begin where their imports have ended: forked from one that does nothing else."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from tests.support.environment import with_project
from tests.support.json_process import JsonProcess


class Forks(JsonProcess):
    """Of a process that has imported `module`, of which each fork calls `function` with texts."""

    def __init__(self, module: str, function: str) -> None:
        super().__init__([sys.executable, "-m", "tests.support.forks", module, function], env=with_project())

    def run(self, *calls: Sequence[str]) -> list[int]:
        """Exit statuses of as many forks that run at once: 0, or -9 of one that was killed.

        Raises AssertionError with what it said where one failed by itself.
        """
        self.write_message(calls)
        ended: list[int] = self.next_message()
        assert all(status <= 0 for status in ended), self._last_words()
        return ended


def _fork(call: Callable[..., object], arguments: Sequence[str]) -> int:
    """Its pid."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # statuses only are said there
        call(*arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main(module: str, function: str) -> None:
    call = getattr(importlib.import_module(module), function)
    for line in sys.stdin:
        pids = [_fork(call, arguments) for arguments in json.loads(line)]
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
