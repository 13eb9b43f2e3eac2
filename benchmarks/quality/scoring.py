"""Whether answers are right: executed in a sandbox, or compared with what was cut out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from benchmarks.quality.protocols.protocol import Problem
from benchmarks.quality.record import Key, Sample
from benchmarks.quality.sandbox.judge import Sandbox, Verdict, judge

NOT_THE_TEXT = "failed: another text"


def score(
    problems: Mapping[str, Problem],
    samples: Iterable[Sample],
    sandbox: Sandbox | None,
    at_once: int,
    came: Callable[[Key, Verdict], None],
) -> None:
    """Calls `came` with each verdict as it comes. Equal answers to a problem are executed once. sandbox: None where
    nothing is executed. Raises SandboxError; nothing runs on afterwards.
    """
    alike: dict[tuple[str, str], list[Key]] = {}
    for sample in samples:
        alike.setdefault((sample.task_id, sample.completion), []).append(sample.key)
    waiting = iter(alike.items())
    running: dict[Future[Verdict], list[Key]] = {}
    with ThreadPoolExecutor(at_once) as pool:
        while True:
            while len(running) < at_once and (after := next(waiting, None)) is not None:
                (problem, answer), keys = after
                running[pool.submit(verdict, problems[problem], answer, sandbox)] = keys
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                for key in running.pop(done):
                    came(key, done.result())


def verdict(problem: Problem, answer: str, sandbox: Sandbox | None) -> Verdict:
    if problem.execution is None:
        assert problem.canonical is not None
        right = answer.strip() == problem.canonical.strip()
        return Verdict(right, "passed" if right else NOT_THE_TEXT)
    assert sandbox is not None
    return judge(sandbox, problem.execution.program(answer))
