"""Work in processes of its own: its memory is free again when it is done, and nothing of it outlives the command."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from model.config import ELSEWHERE, ConfigError

Say = Callable[[str], None]
"""Progress, for people."""

PATIENCE_S = 10.0
"""For the rank that knows why, where another one only knows that it cannot be had."""
_SPAWN = multiprocessing.get_context("spawn")  # CUDA does not survive a fork


class Line:
    """A child's line to whoever started it."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def say(self, text: str) -> None:
        self._send("said", text)

    def first(self, value: Any) -> Any:
        """Tell a value, and learn that of the first child, once all have told theirs."""
        self._send("told", value)
        return self._pipe.recv()

    def _send(self, kind: Literal["said", "told", "answer", "refused", "failed"], value: Any) -> None:
        self._pipe.send((kind, value))


Work = Callable[[Line], Any]
"""What a child does; picklable, as is its answer."""


def together(works: Sequence[Work], say: Say, scratch: Path | None = None) -> list[Any]:
    """Do each work in a process, all at once; their answers. No process is left, however it ends.

    scratch: a directory that the processes remove if this one is killed, and cannot.
    Raises the ConfigError that a work has raised, and RuntimeError for any other failure or a process that is gone.
    """
    children: list[tuple[BaseProcess, Connection]] = []
    try:
        for work in works:
            ours, theirs = _SPAWN.Pipe()
            process: BaseProcess = _SPAWN.Process(target=_child, args=(theirs, work, scratch), daemon=True)
            process.start()
            theirs.close()
            children.append((process, ours))
        return _answers(children, say)
    finally:
        for process, pipe in children:
            process.kill()
            process.join()
            pipe.close()


def _answers(children: list[tuple[BaseProcess, Connection]], say: Say) -> list[Any]:
    numbers = {pipe: number for number, (_, pipe) in enumerate(children)}
    told: dict[int, Any] = {}
    answers: dict[int, Any] = {}
    vague: Exception | None = None
    failed: set[int] = set()
    deadline = 0.0
    while len(answers) < len(children):
        ready = wait(list(numbers), None if vague is None else max(0.0, deadline - time.monotonic()))
        if vague is not None and not ready:
            raise vague
        for pipe in ready:
            assert isinstance(pipe, Connection)
            try:
                kind, value = pipe.recv()
            except (EOFError, ConnectionError):
                number = numbers.pop(pipe)
                if number not in answers and number not in failed:
                    raise RuntimeError(_ended(children[number][0])) from None
                if not numbers and vague is None:
                    return [answers[i] for i in range(len(children))]
                continue
            match kind:
                case "said":
                    say(value)
                case "told":
                    told[numbers[pipe]] = value
                    if len(told) == len(children):
                        for _, other in children:
                            other.send(told[0])
                case "answer":
                    answers[numbers[pipe]] = value
                case _:
                    failure = ConfigError(value) if kind == "refused" else RuntimeError(value)
                    if ELSEWHERE not in value:
                        raise failure
                    failed.add(numbers[pipe])
                    if vague is None:
                        vague, deadline = failure, time.monotonic() + PATIENCE_S
                    if len(failed) == len(children):
                        raise vague
    return [answers[i] for i in range(len(children))]


def _ended(process: BaseProcess) -> str:
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return "a process was killed from outside: most likely the machine's memory ran out"
    return f"a process ended before it was done, with code {process.exitcode}"


def _child(pipe: Connection, work: Work, scratch: Path | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the one who started us decides
    threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True).start()
    line = Line(pipe)
    try:
        line._send("answer", work(line))
    except ConfigError as error:
        line._send("refused", str(error))
    except Exception as error:
        line._send("failed", f"{type(error).__name__}: {error}")


def _end_with_parent(scratch: Path | None) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)
    os._exit(1)
