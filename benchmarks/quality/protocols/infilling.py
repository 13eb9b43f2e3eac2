"""HumanEval-infilling (arXiv 2207.14255): HumanEval's solutions with a line, several, or a random span cut out.

Prefix, suffix and tests as OpenAI's human-eval-infilling has them. It says no sampling for models like these:
temperature and top_p are HumanEval's here.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.quality.protocols.protocol import Execution, Problem, Protocol, Row, text

STOPS = ("<|endoftext|>", "<file_sep>")
GROUPS = ("SingleLine", "MultiLine", "RandomSpan", "RandomSpanLight")
"""Of 1,033, 5,815, 1,640 and 164 problems."""


def problems(rows: Sequence[Row]) -> list[Problem]:
    return [_problem(row) for row in rows]


def _problem(row: Row) -> Problem:
    prefix, suffix = text(row, "prompt"), text(row, "suffix")
    tests = f"{text(row, 'test')}\ncheck({text(row, 'entry_point')})"
    return Problem(
        id=text(row, "task_id"),
        group="python",
        prompt=prefix,
        suffix=suffix,
        stops=STOPS,
        canonical=text(row, "canonical_solution"),
        execution=Execution(prefix, f"{suffix}\n{tests}"),
    )


PROTOCOL = Protocol(
    name="infilling",
    title="HumanEval-infilling",
    samples=1,
    size=None,
    new_tokens=256,
    groups=GROUPS,
    files=("HumanEval-{group}Infilling.jsonl.gz", "HumanEval-{group}Infilling.jsonl", "HumanEval-{group}.jsonl.gz"),
    problems=problems,
)
