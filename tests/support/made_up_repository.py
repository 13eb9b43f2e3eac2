"""A small repository of several languages, with all that should be left out of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PYTHON = """import os


def total(values):
    result = 0
    for value in values:
        result += value
    return result
"""
JAVA = """class Pair {
    int first;

    int twice() {
        int both = first + first;
        return both;
    }
}
"""
RUBY = """def greet(name)
  text = "hello"
  puts text
end
"""
CODE = {"total.py": PYTHON, "lib/Pair.java": JAVA, "lib/greet.rb": RUBY, "mean.py": PYTHON.replace("total", "mean")}


def write(directory: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory


def git(directory: Path, *arguments: str, date: str = "2024-06-01T12:00:00+00:00") -> None:
    """By nobody in particular, and without what this machine's user has set."""
    person = {"NAME": "Nobody", "EMAIL": "nobody@example.com", "DATE": date}
    own = {f"GIT_{role}_{name}": value for role in ("AUTHOR", "COMMITTER") for name, value in person.items()}
    settings = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-c", "init.defaultBranch=main", *arguments]
    subprocess.run(command, cwd=directory, env=os.environ | own | settings, check=True, capture_output=True)


def committed(directory: Path, files: dict[str, str | bytes], **when: str) -> Path:
    """A repository with the files, or one commit more in it."""
    write(directory, files)
    if not (directory / ".git").exists():
        git(directory, "init", "--quiet")
    git(directory, "add", "--all", "--force")
    git(directory, "commit", "--quiet", "--message", "More", **when)
    return directory
