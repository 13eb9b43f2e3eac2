"""Problems that nobody published, in the formats of published benchmarks."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]

HUMANEVAL: list[Row] = [
    {
        "task_id": "HumanEval/0",
        "prompt": '\ndef add(a, b):\n    """ Add. """\n',
        "entry_point": "add",
        "canonical_solution": "    return a + b\n",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    },
    {
        "task_id": "HumanEval/1",
        "prompt": 'import math\n\ndef root(a):\n    """ Root. """\n',
        "entry_point": "root",
        "canonical_solution": "    return math.sqrt(a)\n",
        "test": "def check(candidate):\n    assert candidate(4) == 2\n",
    },
]

MBPP: list[Row] = [
    {
        "task_id": task,
        "text": "Write a function to double.",
        "code": "def double(a):\r\n  return 2 * a",
        "test_list": ["assert double(1) == 2", "assert double(2) == 4"],
        "test_setup_code": "",
    }
    for task in (10, 11, 510, 511)
]

MULTIPL_E: list[Row] = [
    {
        "name": "HumanEval_0_add",
        "language": "sh",
        "prompt": "#!/bin/bash\n# Add.\nadd() {\n",
        "tests": "}\n[[ $(add 1 2) == 3 ]] || exit 1\n",
        "stop_tokens": ["\n}"],
    }
]

_CONTEXT = """
def test_execution(solution):
    scope = {}
    exec("x = 1\\n[insert]".replace("[insert]", solution), scope)
    assert scope["y"] == 2


def test_string(solution):
    assert "x" in solution
"""
DS1000: list[Row] = [
    {
        "prompt": "Problem:\nOne more than x.\nA:\n<code>\nx = 1\n</code>\ny = ...\nBEGIN SOLUTION\n<code>\n",
        "reference_code": "y = x + 1",
        "metadata": {"problem_id": 0, "library": "Numpy"},
        "code_context": _CONTEXT,
    },
    {
        "prompt": "A:\n<code>\nx = 1\n[insert]\n</code>\n",
        "reference_code": "y = x + 1",
        "metadata": {"problem_id": 1, "library": "Pandas"},
        "code_context": _CONTEXT,
    },
]

FIM: list[Row] = [
    {
        "name": "f",
        "language": language,
        "prompt": "a = ",
        "suffix": "\nb = 2\n",
        "canonical_solution": "1 + 1",
        "tests": "",
    }
    for language in ("py", "java", "js", "js")
]

INFILLING: list[Row] = [
    {
        "task_id": "SingleLineInfilling/HumanEval/0/L0",
        "entry_point": "total",
        "prompt": 'def total(a, b):\n    """ Total. """\n',
        "suffix": "    return both\n",
        "canonical_solution": "    both = a + b\n",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    }
]

FILES: dict[str, tuple[str, str | None, list[Row]]] = {
    "humaneval": ("HumanEval.jsonl.gz", None, HUMANEVAL),
    "mbpp": ("mbpp.jsonl", None, MBPP),
    "multipl-e": ("humaneval-sh.jsonl", "sh", MULTIPL_E),
    "ds1000": ("ds1000.jsonl.gz", None, DS1000),
    "fim": ("santacoder-fim-task.jsonl", None, FIM),
    "infilling": ("HumanEval-SingleLineInfilling.jsonl.gz", "SingleLine", INFILLING),
}
"""By benchmark: the file's name, the group that it is of, what is in it."""


def write(directory: Path, benchmark: str) -> list[str]:
    """The data, and the arguments that name it."""
    name, group, rows = FILES[benchmark]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (directory / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    return ["--data", str(directory), *(["--group", group] if group else [])]
