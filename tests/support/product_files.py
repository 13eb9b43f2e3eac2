"""The product's own sources, for tests of what must not stand in two of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def sources() -> Iterator[Path]:
    """Python and JavaScript that we wrote."""
    for folder in ("deployments", "monitoring", "benchmarks"):
        for suffix in ("*.py", "*.js"):
            yield from (path for path in (ROOT / folder).rglob(suffix) if "codemirror" not in path.name)


def lists_of(names: Collection[str], least: int) -> list[str]:
    """Files that name so many of them in quotes, or as keys of an object."""
    words = re.compile(rf"""["'`]({"|".join(map(re.escape, names))})["'`]|^\s*({"|".join(names)}):\s*["'`]""", re.M)
    found = {path: {a or b for a, b in words.findall(path.read_text(encoding="utf-8"))} for path in sources()}
    return sorted(str(path.relative_to(ROOT)) for path, named in found.items() if len(named) >= least)
