"""DS-1000 (arXiv 2211.11501): questions about seven Python libraries; where the prompt says `[insert]`, a gap to fill.

Prompts and stops as bigcode-evaluation-harness at 8fc5bae has them, bigcode_eval/tasks/ds1000.py. Tests as DS-1000's
own `ds1000.jsonl.gz` brings them: each has a `test_execution`, some a `test_string`, which take the answer as a text.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.quality.protocols.protocol import Execution, Problem, Protocol, Row, text
from benchmarks.quality.sandbox.program import MIB, Limits

STOPS = ("</code>", "# SOLUTION END")
GAP = "[insert]"
LIMITS = Limits(seconds=120, memory_bytes=4096 * MIB, whole_address_space=False, processes=128, scratch_bytes=128 * MIB)
"""Whose libraries reserve what they do not use."""


def problems(rows: Sequence[Row]) -> list[Problem]:
    return [_problem(number, row) for number, row in enumerate(rows)]


def _problem(number: int, row: Row) -> Problem:
    whole, context = text(row, "prompt"), text(row, "code_context")
    prompt, gap, suffix = whole.partition(GAP)
    after = "\ntest_execution(code)\n" + ("test_string(code)\n" if "test_string(" in context else "")
    return Problem(
        id=str(row["metadata"].get("problem_id", number)),
        group=row["metadata"]["library"],
        prompt=f"{prompt.strip()}\n" if gap else whole,
        suffix=f"\n{suffix.strip()}\n" if gap else None,
        stops=STOPS,
        canonical=text(row, "reference_code"),
        execution=Execution(f"{context}\ncode = ", after, quoted=True, limits=LIMITS, packages=True),
    )


PROTOCOL = Protocol(
    name="ds1000",
    title="DS-1000",
    samples=40,
    size=1000,
    total_tokens=1024,
    files=("ds1000.jsonl.gz", "ds1000.jsonl"),
    problems=problems,
)
