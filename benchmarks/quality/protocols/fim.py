"""SantaCoder-FIM (arXiv 2301.03988): 4,792 lines of Python, Java and JavaScript, right if they are what was cut out.

As bigcode-evaluation-harness at 8fc5bae has it, bigcode_eval/tasks/santacoder_fim.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.quality.protocols.protocol import Problem, Protocol, Row, text

STOPS = ("<|endoftext|>", "<|filename|>", "<file_sep>")


def problems(rows: Sequence[Row]) -> list[Problem]:
    return [_problem(number, row) for number, row in enumerate(rows)]


def _problem(number: int, row: Row) -> Problem:
    return Problem(
        id=f"{text(row, 'name', 'task_id')}/{number}",  # names come again
        group=text(row, "language"),
        prompt=text(row, "prompt"),
        suffix=text(row, "suffix"),
        stops=STOPS,
        canonical=text(row, "canonical_solution"),
    )


PROTOCOL = Protocol(
    name="fim",
    title="SantaCoder-FIM",
    samples=1,
    size=4792,
    new_tokens=25,
    files=("santacoder-fim-task.jsonl", "santacoder-fim-task.jsonl.gz"),
    problems=problems,
    executes=False,
    score="exact match",
)
