"""`python -m tests.mutation.typed mypy FILE ...`: of planted faults, those that the type checker notices, for mutmut.

`make test` runs it, too, so it need not be found by a test that somebody passes None, or an argument too few. mutmut
runs this where it has planted its faults. It is told of the faults alone: not of mutmut's own code, nor of what the
checker says of the same line without a fault.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_TRAMPOLINE = """
from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function")
MutantDict = dict[str, Any]

def wrap_in_trampoline(mutants: MutantDict) -> Callable[[_Function], _Function]: ...
"""
"""What every function with faults is wrapped in. With the types that it really has, they would all be lost."""

_NOT_OF_A_FAULT = frozenset({"unused-ignore", "no-redef", "misc", "import-not-found", "has-type", "var-annotated"})
"""What mypy says of the same code twice, and of names that it has no type for since it stands there twice."""

_PLANTED = re.compile(r"(x_|x\u01c1).+__mutmut_(orig|\d+)")


class Place(NamedTuple):
    """A function with a fault, or without. name: mutmut's; whole: without the fault's number. Lines count from 1."""

    name: str
    whole: str
    first: int
    last: int


def places(source: str) -> Iterator[Place]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _PLANTED.fullmatch(node.name):
            yield Place(node.name, node.name.rpartition("_")[0], node.lineno, node.end_lineno or node.lineno)


def of_faults(errors: Sequence[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """Those of the errors of a file, as mypy writes them in JSON, that a fault has caused."""
    found, known = [], set()
    everywhere = list(places(source))
    for error in errors:
        if error["severity"] != "error" or error["code"] in _NOT_OF_A_FAULT:
            continue
        line = error["line"]
        for place in everywhere:
            if place.first <= line <= place.last:
                at = place.whole, line - place.first, error["code"]
                if place.name.endswith("_orig"):
                    known.add(at)
                else:
                    found.append((at, error))
                break
    return [error for at, error in found if at not in known]


def main(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as stubs:
        folder = Path(stubs, "mutmut", "mutation")
        folder.mkdir(parents=True)
        for parent in (folder, folder.parent):
            (parent / "__init__.pyi").touch()
        (folder / "trampoline.pyi").write_text(_TRAMPOLINE)
        # A folder above that of mutmut's copy, which is made anew: what does not change is read once.
        cache = Path.cwd().parents[1] / ".mypy_cache"
        checked = subprocess.run(
            [sys.executable, "-m", *arguments, "--output=json", "--no-error-summary", f"--cache-dir={cache}"],
            env={**os.environ, "MYPYPATH": stubs},
            capture_output=True,
            text=True,
        )
    if checked.returncode not in (0, 1):
        print(checked.stdout, checked.stderr, sep="\n", file=sys.stderr)
        return checked.returncode
    by_file: dict[str, list[dict[str, Any]]] = {}
    for line in filter(str.strip, checked.stdout.splitlines()):
        error = json.loads(line)
        by_file.setdefault(error["file"], []).append(error)
    for file, errors in by_file.items():
        for error in of_faults(errors, Path(file).read_text(encoding="utf-8")):
            print(json.dumps(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
