"""MBPP (arXiv 2108.07732): 500 tasks of its test split, numbers 11 to 510, prompted by a docstring that holds one test.

As bigcode-evaluation-harness at 8fc5bae has it, bigcode_eval/tasks/mbpp.py (after InCoder).
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.quality.protocols.protocol import Execution, Problem, Protocol, Row, text

STOPS = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")
FIRST, LAST = 11, 510


def problems(rows: Sequence[Row]) -> list[Problem]:
    """Of the test split; the data has the others in the same file."""
    return [_problem(row) for row in rows if FIRST <= int(row["task_id"]) <= LAST]


def _problem(row: Row) -> Problem:
    tests = row["test_list"]
    prompt = f'"""\n{text(row, "text")}\n{tests[0]}\n"""\n'
    return Problem(
        id=f"MBPP/{row['task_id']}",
        group="python",
        prompt=prompt,
        stops=STOPS,
        canonical=text(row, "code"),
        execution=Execution(prompt, "\n" + "\n".join(tests)),
    )


PROTOCOL = Protocol(
    name="mbpp",
    title="MBPP",
    samples=15,
    size=500,
    total_tokens=512,
    files=("mbpp.jsonl", "mbpp.jsonl.gz"),
    problems=problems,
)
