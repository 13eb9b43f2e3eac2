"""A fresh interpreter: what declares itself is looked for once, when it is first asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.environment import with_project


def run_fresh(script: str, *arguments: str) -> Any:
    """What a script prints, which is JSON; it finds the project and `arguments` in `sys.argv`."""
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    done = subprocess.run(command, env=with_project(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def with_module(package: str, directory: Path, setup: str = "") -> str:
    """The beginning of a script: modules in `directory` count as the package's. setup: what comes before."""
    return f"{setup}\nimport {package}\n{package}.__path__.append({str(directory)!r})\n"
