"""Programs that use Triton, each in a process of its own: Triton decides when it is imported whether it interprets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.support.environment import ROOT, with_project


def run_with_triton(
    program: str, *arguments: str, interpret: bool = not torch.cuda.is_available(), cache: Path | None = None
) -> list[Any]:
    """What the Python program prints, a JSON value a line. cache: where it keeps what it compiles, if not at home."""
    special = ({"TRITON_INTERPRET": "1"} if interpret else {}) | ({"TRITON_CACHE_DIR": str(cache)} if cache else {})
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=with_project(OMP_NUM_THREADS="1", **special),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
