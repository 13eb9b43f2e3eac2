"""Clients that are no part of this project's environment, installed once and then kept.

They live under `build/`, in a folder named by what their lock says, so a changed lock installs anew and everything
else works without a network. The versions and checksums are in `tests/clients`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.programs import program

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "tests/clients"
INSTALL_SECONDS = 480


def npm_packages() -> Path:
    """A folder whose `node_modules` holds what the lock in `tests/clients` says."""
    program("node", "nodejs")
    npm = program("npm")
    sources = [CLIENTS / name for name in ("package.json", "package-lock.json", ".npmrc")]

    def install(folder: Path) -> None:
        for source in sources:
            shutil.copy(source, folder)
        _run([npm, "ci", "--prefer-offline"], folder)

    return _installed("npm", sources, install)


def python_packages(name: str) -> Path:
    """The interpreter of an environment that holds what `tests/clients/{name}.txt` says, and nothing else."""
    requirements = CLIENTS / f"{name}.txt"

    def install(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], folder)
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "venv/bin/python"), "install", "--quiet"]
        _run([*pip, "--disable-pip-version-check", "--no-deps", "--requirement", str(requirements)], folder)

    return (
        _installed(f"{name}-{sys.version_info[0]}.{sys.version_info[1]}", [requirements], install) / "venv/bin/python"
    )


def _installed(name: str, sources: list[Path], install: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    folder = ROOT / "build" / "clients" / f"{name}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may install the same
        if not folder.exists():
            # Whole or not at all: this run may be stopped.
            half = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder.parent))
            try:
                install(half)
                half.rename(folder)
            finally:
                shutil.rmtree(half, ignore_errors=True)
    return folder


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    if done.returncode:
        reason = f"{' '.join(command[:3])} failed, which needs a network the first time: {done.stderr[-2000:]}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
