"""A virtual environment for each peer, made by pip alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.engines import Engine

_NEEDS = """
import importlib.metadata, sys
from packaging.requirements import Requirement
unwanted = set(sys.argv[2:])
for text in importlib.metadata.requires(sys.argv[1]) or []:
    need = Requirement(text)
    if need.name.lower() not in unwanted and (need.marker is None or need.marker.evaluate({"extra": ""})):
        need.marker = None
        print(need)
"""

_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for package in sys.argv[1:]:
    try:
        found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class InstallError(RuntimeError):
    """A peer's environment cannot be made; the message is short enough for a table."""


def python_of(environment: Path) -> Path:
    return environment / "bin" / "python"


def is_installed(environment: Path) -> bool:
    return (environment / "installed").is_file()


def install(engine: Engine, environment: Path, *, torch: str, indexes: Sequence[str] = (), timeout_s: float) -> None:
    """Make the environment, unless it is complete already. pip's words go to `install.log` in it.

    torch: the release for `{torch}`. indexes: package indexes besides pip's own. Raises InstallError.
    """
    if is_installed(environment):
        return
    environment.mkdir(parents=True, exist_ok=True)
    log = environment / "install.log"
    log.write_text("")
    variables = {**os.environ, **engine.build}
    pip = [str(python_of(environment)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    pip += [part for index in indexes for part in ("--extra-index-url", index)]
    if not python_of(environment).exists():
        _run([sys.executable, "-m", "venv", str(environment)], log, variables, timeout_s)
    _run([*pip, *(r.format(torch=torch) for r in engine.requirements)], log, variables, timeout_s)
    for package in engine.bare:
        _run([*pip, "--no-deps", package], log, variables, timeout_s)
        needs = [str(python_of(environment)), "-c", _NEEDS, package, *engine.unwanted]
        found = _run(needs, log, variables, timeout_s).split("\n")
        _run([*pip, f"torch=={torch}", *filter(None, found)], log, variables, timeout_s)
    (environment / "installed").touch()


def prepare(engine: Engine, environment: Path, *, make: bool, **how: Any) -> str | None:
    """Why it cannot be used, if so. make: install it where it is missing; how: as of `install`."""
    if not make:
        return None if is_installed(environment) else "not installed: run with --install"
    try:
        install(engine, environment, **how)
    except InstallError as error:
        return str(error)
    return None


def variables_of(python: Path) -> dict[str, str]:
    """Environment variables for a Python that keeps its own libraries: nothing of the caller's may leak in."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return {**kept, "PATH": f"{python.parent}{os.pathsep}{kept.get('PATH', '')}"}


def versions_of(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Of those that it has."""
    done = subprocess.run(
        [str(python), "-c", _VERSIONS, *packages],
        capture_output=True,
        text=True,
        env=variables_of(python),
        timeout=60,
        check=False,
    )
    found: dict[str, str] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def _run(command: list[str], log: Path, variables: Mapping[str, str], timeout_s: float) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=dict(variables), timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"not installed: took longer than {timeout_s:.0f} s") from None
    with log.open("a") as file:
        file.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}\n")
    if done.returncode:
        raise InstallError(f"not installed: {last_words(done.stderr)}")
    return done.stdout


def last_words(text: str, private: Iterable[Path] = ()) -> str:
    """The line that says what went wrong, without addresses and paths: results are published."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"\b\w*(error|exception)\b", line, re.IGNORECASE)]
    line = (telling or lines or ["it says nothing"])[-1]
    for path in private:
        line = line.replace(str(path), path.name)
    line = re.sub(r"\w+://\S+", "<address>", line)
    return re.sub(r"(?<![\w.])/(?:[\w.+@~-]+/)+", "", line)[:200]
