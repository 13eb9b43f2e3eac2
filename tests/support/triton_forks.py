"""Runs programs in forks of this process, which has what they need: `python -m tests.support.triton_forks`.

It reads what to run as JSON, one a line, and says how each ended.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from functools import cache

import triton.language

import model.process.rank  # noqa: F401
import tests.support.checkpoints  # noqa: F401  programs that import a test import transformers

MOST_CPU_SECONDS = 500
"""Of the processor: how long that takes is the machine's."""


def run(program: str, arguments: list[str], environment: dict[str, str], output: str, errors: str) -> int:
    """The exit code of a fork that runs the program. output, errors: files that get what it prints."""
    if (pid := os.fork()) == 0:
        _become(program, arguments, environment, output, errors)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _become(program: str, arguments: list[str], environment: dict[str, str], output: str, errors: str) -> None:
    """Never returns."""
    code = 1
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_SECONDS, MOST_CPU_SECONDS))
    try:
        for number, path in enumerate((os.devnull, output, errors)):
            os.dup2(os.open(path, os.O_RDWR), number)
        os.environ.update(environment)
        sys.argv[1:] = arguments
        exec(program, {"__name__": "__main__"})
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def prepare_the_language_once() -> None:
    """Triton's interpreter does so, and undoes it, for each call of a function, which takes half of its time."""
    from triton.runtime import interpreter

    prepare = interpreter._patch_lang

    @cache
    def prepared(function: Callable[..., object]) -> interpreter._LangPatchScope:
        prepare(function)
        return interpreter._LangPatchScope()  # nothing is to be undone

    interpreter._patch_lang = prepared


def look_types_up_once() -> None:
    """NumPy's type for one of Triton's: the interpreter makes the whole table for each of its operations."""
    from triton.runtime import interpreter

    look_up = interpreter._get_np_dtype
    known: dict[str, object] = {}

    def found(asked: triton.language.dtype) -> object:
        name = asked.scalar.name
        if name not in known:
            known[name] = look_up(asked)
        return known[name]

    interpreter._get_np_dtype = found


def let_integers_overflow() -> None:
    """As they do on a GPU. The interpreter computes each sum a second time, wider, which no test's sizes need."""
    from triton.runtime import interpreter

    options = dataclasses.replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
    interpreter.interpreter_builder.options = options


def main() -> None:
    if triton.knobs.runtime.interpret:
        prepare_the_language_once()
        look_types_up_once()
        let_integers_overflow()
    for line in sys.stdin:
        print(run(**json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
