"""Clients that are no part of this project's environment, installed once and then kept.

They live under `build/`, in a folder named by what their lock says, so a changed lock installs anew and everything
else works without a network. Versions are in `tests/clients`; for npm, checksums too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
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


def python_packages(name: str, *, beside_ours: bool = False) -> Path:
    """The interpreter of an environment that holds what `tests/clients/{name}.txt` says, and nothing else.

    beside_ours: and what this project's environment holds, where the file says nothing of it: PyTorch is 700 MB.
    """
    requirements = CLIENTS / f"{name}.txt"
    ours = sysconfig.get_path("purelib") if beside_ours else ""

    def install(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], folder)
        python = folder / "venv/bin/python"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
        _run([*pip, "--disable-pip-version-check", "--no-deps", "--requirement", str(requirements)], folder)
        if ours:
            # A path that is read from such a file is searched last.
            (packages,) = (folder / "venv/lib").glob("python*/site-packages")
            (packages / "ours.pth").write_text(ours + "\n")

    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return _installed(f"{name}-{version}", [requirements], install, ours) / "venv/bin/python"


def _installed(name: str, sources: list[Path], install: Callable[[Path], None], also: str = "") -> Path:
    """also: what else it depends on."""
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources) + also.encode()).hexdigest()[:16]
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
