"""Programs that use Triton, each in a process of its own: Triton decides when it is imported whether it interprets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]


def run_with_triton(
    program: str, *arguments: str, interpret: bool = not torch.cuda.is_available(), cache: Path | None = None
) -> list[Any]:
    """What the Python program prints, a JSON value a line. cache: where it keeps what it compiles, if not at home."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if cache is not None:
        environment["TRITON_CACHE_DIR"] = str(cache)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=environment | ({"TRITON_INTERPRET": "1"} if interpret else {}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
