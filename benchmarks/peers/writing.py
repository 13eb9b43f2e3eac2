"""How results are written: NAME.json and NAME.md."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.report import Result, markdown_table

RESULTS = Path(__file__).parents[1] / "results"


def write(result: Result, directory: Path, name: str) -> None:
    """NAME.json with every sample, NAME.md to read."""
    result.write(directory / f"{name}.json")
    machine = describe_machine()
    parts = [f"# {name}", f"{time.strftime('%Y-%m-%d', time.gmtime())}, " + describe(machine)]
    parts += [f"{title}\n\n{markdown_table(rows)}" for title, rows in result.tables.items()]
    (directory / f"{name}.md").write_text("\n\n".join(parts) + "\n")


def describe(machine: dict[str, Any]) -> str:
    flags = ", ".join(machine["flags"]) or "no vector instructions known"
    return f"{machine['cpu']}, {machine['cores']} cores ({flags}), {machine['memory_gib']} GiB."
