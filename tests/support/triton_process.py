"""Programs that use Triton, each in a process of its own: Triton decides when it is imported whether it interprets."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch

from tests.support.environment import ROOT, with_project
from tests.support.json_process import JsonProcess

SECONDS = 1400.0
"""For one that waits for ever. What goes round in circles is ended by its processor time (`triton_forks`)."""
SERVER = [sys.executable, "-m", "tests.support.triton_forks"]


class TritonPrograms:
    """Context manager. Processes of programs are forked: one that interprets, and one that compiles, import for all."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._servers: dict[bool, JsonProcess] = {}
        self._scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sc-triton-")))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(
        self, program: str, *arguments: str, interpret: bool = not torch.cuda.is_available(), cache: Path | None = None
    ) -> list[Any]:
        """What the Python program prints, a JSON value a line.

        cache: where it keeps what it compiles, if not at home. Raises AssertionError with what a failing one says.
        """
        output, errors = (self._scratch / name for name in ("output", "errors"))
        for file in (output, errors):
            file.write_text("")
        server = self._server(interpret)
        server.write_message(
            {
                "program": program,
                "arguments": arguments,
                "environment": {"TRITON_CACHE_DIR": str(cache)} if cache else {},
                "output": str(output),
                "errors": str(errors),
            }
        )
        assert server.next_message(seconds=SECONDS) == 0, errors.read_text()
        return [json.loads(line) for line in output.read_text().splitlines()]

    def _server(self, interpret: bool) -> JsonProcess:
        if interpret not in self._servers:
            environment = with_project(OMP_NUM_THREADS="1", **({"TRITON_INTERPRET": "1"} if interpret else {}))
            self._servers[interpret] = self._stack.enter_context(JsonProcess(SERVER, cwd=ROOT, env=environment))
        return self._servers[interpret]
