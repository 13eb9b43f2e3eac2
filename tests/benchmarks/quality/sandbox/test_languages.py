"""Other languages than Python, in each sandbox: their compilers and runtimes find what they need."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.quality.protocols.multipl_e import LANGUAGES, limits
from benchmarks.quality.sandbox.judge import Sandbox, Verdict, judge
from benchmarks.quality.sandbox.program import Program

RIGHT = {
    "js": "const assert = require('node:assert');\nassert.deepEqual([1, 2], [1, 2]);\n",
    "sh": "[[ 1 == 1 ]]\n",
}
WRONG = {
    "js": "require('node:assert').equal(1, 2);\n",
    "sh": "exit 1\n",
}
THERE = [name for name in RIGHT if shutil.which(LANGUAGES[name].commands[0].argv[0])]


@pytest.mark.parametrize("name", THERE)
def test_a_language_runs(sandbox: Sandbox, name: str) -> None:
    language = LANGUAGES[name]

    def ran(text: str) -> Verdict:
        return judge(sandbox, Program(text, limits(language), file=language.file, commands=language.commands))

    assert ran(RIGHT[name]) == Verdict(True, "passed")
    assert ran(WRONG[name]) == Verdict(False, "failed: CalledProcessError")
