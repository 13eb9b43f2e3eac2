"""A gap made by hand."""

from __future__ import annotations

from typing import Any

from benchmarks.quality.own.questions import Question


def gap(**changes: Any) -> Question:
    usual = {"id": "q", "file": "f", "path": "a.py", "line": 2, "language": "python", "kind": "line"}
    return Question(**{**usual, "prefix": "a = 1\n", "missing": "b = 2", "suffix": "\nc = 3\n", **changes})
