"""MultiPL-E (arXiv 2208.08227): HumanEval's functions in other languages, compiled and run; exit code 0 is right.

As bigcode-evaluation-harness at 8fc5bae has it: bigcode_eval/tasks/multiple.py, and its commands, of
bigcode_eval/tasks/custom_metrics/multiple_metrics/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.quality.protocols.protocol import Execution, Problem, Protocol, Row, text
from benchmarks.quality.sandbox.program import MIB, Command, Limits

EVERYWHERE = ("<file_sep>",)
TUPLES = "/usr/multiple/javatuples-1.2.jar:/usr/share/java/javatuples.jar"
"""Where the harness's image has the library that some of Java's problems need; and Debian."""


@dataclass(frozen=True)
class Language:
    """commands: words and seconds."""

    file: str
    commands: tuple[Command, ...]


def _run(*argv: str, seconds: float = 15) -> Command:
    return Command(argv, seconds)


LANGUAGES = {
    "cpp": Language("program.cpp", (_run("g++", "program.cpp", "-o", "program", "-std=c++17"), _run("./program"))),
    "java": Language(
        "Problem.java",
        (
            _run("javac", "-encoding", "UTF8", "-cp", TUPLES, "-d", ".", "Problem.java"),
            _run("java", "-Xmx512m", "-ea", "-cp", f".:{TUPLES}", "Problem"),
        ),
    ),
    "js": Language("program.js", (_run("node", "program.js", seconds=5),)),
    "lua": Language("program.lua", (_run("lua", "program.lua"),)),
    "php": Language("program.php", (_run("php", "program.php"),)),
    "py": Language("program.py", (_run("python3", "program.py"),)),
    "rb": Language("program.rb", (_run("ruby", "program.rb", seconds=5),)),
    "rs": Language("program.rs", (_run("rustc", "program.rs", "-o", "program"), _run("./program", seconds=5))),
    "sh": Language("program.sh", (_run("bash", "program.sh"),)),
}


def limits(language: Language) -> Limits:
    """Runtimes have many threads, and reserve more addresses than they use."""
    return Limits(
        seconds=sum(command.seconds for command in language.commands),
        memory_bytes=2048 * MIB,
        whole_address_space=False,
        processes=128,
        scratch_bytes=128 * MIB,
    )


def problems(rows: Sequence[Row]) -> list[Problem]:
    """Raises ValueError for a language that nothing here runs."""
    return [_problem(row) for row in rows]


def _problem(row: Row) -> Problem:
    prompt, name = text(row, "prompt").strip(), text(row, "language")
    if (language := LANGUAGES.get(name)) is None:
        raise ValueError(f"{name!r} is none of the languages that can be run: {', '.join(LANGUAGES)}")
    return Problem(
        id=text(row, "name"),
        group=name,
        prompt=prompt,
        stops=(*row["stop_tokens"], *EVERYWHERE),
        canonical=None,
        execution=Execution(
            prompt,
            "\n" + text(row, "tests"),
            limits=limits(language),
            file=language.file,
            commands=language.commands,
        ),
    )


PROTOCOL = Protocol(
    name="multipl-e",
    title="MultiPL-E",
    samples=50,
    size=None,
    total_tokens=512,
    groups=tuple(LANGUAGES),
    files=("humaneval-{group}.jsonl", "humaneval-{group}.jsonl.gz", "humaneval-{group}.json"),
    problems=problems,
)
