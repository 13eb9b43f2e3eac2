"""Prompts, stops, programs and sampling, letter by letter: whoever changes one measures what nobody published."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from benchmarks.quality.protocols.protocol import Problem
from benchmarks.quality.protocols.registry import PROTOCOLS
from tests.support.made_up_benchmarks import DS1000, FILES, FIM, HUMANEVAL, INFILLING, MBPP, MULTIPL_E


@dataclass(frozen=True)
class Golden:
    """sampling: answers a problem, temperature, top_p, tokens in all, new tokens."""

    prompt: str
    suffix: str | None
    stops: tuple[str, ...]
    program: str | None
    sampling: tuple[int, float, float, int | None, int | None]


GOLDEN = {
    "humaneval": Golden(
        'def add(a, b):\n    """ Add. """',
        None,
        ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"),
        'def add(a, b):\n    """ Add. """ANSWER\n\n'
        "def check(candidate):\n    assert candidate(1, 2) == 3\n\ncheck(add)",
        (200, 0.2, 0.95, 512, None),
    ),
    "mbpp": Golden(
        '"""\nWrite a function to double.\nassert double(1) == 2\n"""\n',
        None,
        ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
        '"""\nWrite a function to double.\nassert double(1) == 2\n"""\n'
        "ANSWER\nassert double(1) == 2\nassert double(2) == 4",
        (15, 0.2, 0.95, 512, None),
    ),
    "multipl-e": Golden(
        "#!/bin/bash\n# Add.\nadd() {",
        None,
        ("\n}", "<file_sep>"),
        "#!/bin/bash\n# Add.\nadd() {ANSWER\n}\n[[ $(add 1 2) == 3 ]] || exit 1\n",
        (50, 0.2, 0.95, 512, None),
    ),
    "ds1000": Golden(
        DS1000[0]["prompt"],
        None,
        ("</code>", "# SOLUTION END"),
        f"{DS1000[0]['code_context']}\ncode = 'ANSWER'\ntest_execution(code)\ntest_string(code)\n",
        (40, 0.2, 0.95, 1024, None),
    ),
    "fim": Golden("a = ", "\nb = 2\n", ("<|endoftext|>", "<|filename|>", "<file_sep>"), None, (1, 0.2, 0.95, None, 25)),
    "infilling": Golden(
        'def total(a, b):\n    """ Total. """\n',
        "    return both\n",
        ("<|endoftext|>", "<file_sep>"),
        'def total(a, b):\n    """ Total. """\nANSWER    return both\n\n'
        "def check(candidate):\n    assert candidate(1, 2) == 3\n\ncheck(total)",
        (1, 0.2, 0.95, None, 256),
    ),
}


def first(benchmark: str) -> Problem:
    return PROTOCOLS[benchmark].problems(FILES[benchmark][2])[0]


@pytest.mark.parametrize("benchmark", PROTOCOLS)
def test_letter_by_letter(benchmark: str) -> None:
    golden, protocol, problem = GOLDEN[benchmark], PROTOCOLS[benchmark], first(benchmark)
    assert (problem.prompt, problem.suffix, problem.stops) == (golden.prompt, golden.suffix, golden.stops)
    program = problem.execution.program("ANSWER").text if problem.execution else None
    assert program == golden.program
    sampling = (protocol.samples, protocol.temperature, protocol.top_p, protocol.total_tokens, protocol.new_tokens)
    assert sampling == golden.sampling
    assert protocol.executes == (program is not None)


def test_a_solution_begins_where_the_stripped_prompt_ends() -> None:
    assert [problem.canonical for problem in PROTOCOLS["humaneval"].problems(HUMANEVAL)] == [
        "\n    return a + b\n",
        "\n    return math.sqrt(a)\n",
    ]


def test_mbpp_is_its_test_split() -> None:
    assert [problem.id for problem in PROTOCOLS["mbpp"].problems(MBPP)] == ["MBPP/11", "MBPP/510"]


def test_ds1000_has_gaps() -> None:
    completion, gap = PROTOCOLS["ds1000"].problems(DS1000)
    assert completion.suffix is None
    assert (gap.prompt, gap.suffix) == ("A:\n<code>\nx = 1\n", "\n</code>\n")
    assert (completion.group, gap.group) == ("Numpy", "Pandas")


def test_languages_are_compiled_and_run_as_published() -> None:
    execution = first("multipl-e").execution
    assert execution is not None
    assert [command.argv for command in execution.commands] == [("bash", "program.sh")]
    with pytest.raises(ValueError, match="'cobol' is none of the languages"):
        PROTOCOLS["multipl-e"].problems([{**MULTIPL_E[0], "language": "cobol"}])


def test_names_that_come_again_are_told_apart() -> None:
    problems = PROTOCOLS["fim"].problems(FIM)
    assert len({problem.id for problem in problems}) == len(problems)
    assert [problem.group for problem in problems] == ["py", "java", "js", "js"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("\n    return 1\n\ndef g", "\n    return 1\n"),
        ("x\nif y\nclass z", "x"),
        (" def is no stop", " def is no stop"),
        ("\ndef", ""),
    ],
)
def test_what_stands_before_the_first_stop_is_left(text: str, left: str) -> None:
    assert first("humaneval").cut(text) == left


def test_data_of_another_kind_is_told() -> None:
    with pytest.raises(ValueError, match="no text 'prompt'"):
        PROTOCOLS["humaneval"].problems(MBPP)
    assert PROTOCOLS["infilling"].problems(INFILLING)[0].canonical == "    both = a + b\n"
