"""The examples of CONTRIBUTING.md, as files."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def example(title: str) -> str:
    """The Python, or TOML, under a heading. Raises ValueError where there is none."""
    chapter = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    found = re.search(r"^```(?:python|toml)\n(.*?)^```$", chapter, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"no example under {title!r}")
    return found.group(1)
