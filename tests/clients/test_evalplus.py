"""EvalPlus as published: its `openai` backend asks a server, and its scorer judges answers that ours has judged.

The scorer executes what it is given without a sandbox: here, what this file says.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from deployments.ingress import create_app
from model.text.tokenizer import Tokenizer
from tests.clients.configured import KEY, python_command
from tests.clients.conftest import Door
from tests.support.http_server import serving
from tests.support.knowing_backend import Knowing
from tests.support.made_up_benchmarks import HUMANEVAL, write
from tests.support.packages import python_packages
from tests.support.tokenizers import starcoder_rules
from tests.support.waiting import wait_until

pytestmark = pytest.mark.client("evalplus (PyPI)", "OpenAI")

ADD, ROOT = HUMANEVAL
INPUTS = {"HumanEval/0": ([[1, 2]], [[0, -7]]), "HumanEval/1": ([[4]], [[2.25]])}
"""Of each problem: EvalPlus's base tests, and those that it adds."""

RIGHT = f"Here it is:\n```python{ADD['prompt']}{ADD['canonical_solution']}```\n"
ONLY_BASE = "```python\ndef root(a):\n    return a // 2\n```\n"


@dataclass(frozen=True)
class EvalPlus:
    """The package in a folder of its own, with two problems in the place of HumanEval+."""

    python: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        problems = self.folder / "problems.jsonl"
        rows = []
        for row in HUMANEVAL:
            base, plus = INPUTS[row["task_id"]]
            rows.append({**row, "contract": "", "base_input": base, "plus_input": plus, "atol": 0})
        problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
        home = {"HUMANEVAL_OVERRIDE_PATH": str(problems), "XDG_CACHE_HOME": str(self.folder / "cache")}
        return {**os.environ, **home, "HF_HUB_OFFLINE": "1"}

    def evaluate(self, results: Path, *arguments: str, **environment: str) -> dict[str, list[tuple[str, str]]]:
        """By problem and answer, how the base tests went, and those that were added.

        A thread of its own keeps it for 20 seconds after it is done, so it is ended once its results are written.
        """

        found: dict[str, Any] = {}

        def written() -> bool:
            ended = process.poll() is not None
            try:
                found.update(json.loads(results.read_text())["eval"])
            except (FileNotFoundError, json.JSONDecodeError):
                assert not ended, log.read_text()[-4000:]
            return bool(found)

        log = self.folder / "log.txt"
        command, settings = [str(self.python), *arguments], self.environment | environment
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=self.folder, env=settings, stdout=file, stderr=subprocess.STDOUT)
        try:
            wait_until(written, lambda: log.read_text()[-4000:], period_s=0.2)
        finally:
            process.kill()
            process.wait()
        return {task: [(one["base_status"], one["plus_status"]) for one in answers] for task, answers in found.items()}


@pytest.fixture
def evalplus(tmp_path: Path) -> EvalPlus:
    return EvalPlus(python_packages("evaluation", beside_ours=True), tmp_path)


@pytest.fixture(scope="module")
def clever() -> Knowing:
    """Room for a problem and the 768 tokens that EvalPlus asks for."""
    canonical = ADD["canonical_solution"]
    return Knowing(
        Tokenizer(starcoder_rules()),
        {
            f"```python\n{ADD['prompt'].strip()}\n```": RIGHT,
            f"```python\n{ROOT['prompt'].strip()}\n```": ONLY_BASE,
            ADD["prompt"].strip(): f"\n{canonical}",
        },
        window=4096,
    )


@pytest.fixture
def knowing(clever: Knowing) -> Knowing:
    """Asked nothing yet."""
    clever.requests.clear()
    return clever


@pytest.fixture(scope="module")
def address(clever: Knowing) -> Iterator[tuple[Door, str]]:
    door = Door(create_app(backend=clever, tokenizer=clever.tokenizer))
    with serving(door) as url:
        yield door, url


@pytest.fixture
def desk(address: tuple[Door, str], knowing: Knowing) -> tuple[Door, str]:
    """A server's application, at which nobody has been, and its address."""
    address[0].keys.clear()
    return address


def test_the_documented_command_asks_and_scores(evalplus: EvalPlus, desk: tuple[Door, str], knowing: Knowing) -> None:
    """Its Markdown, its prompts and its tests: one answer is right, and one but for the tests that EvalPlus adds."""
    door, url = desk
    environment, arguments = python_command("evalplus", url)
    results = evalplus.folder / "evalplus_results/humaneval/bigcode--tiny-starcoder_openai_temp_0.0_eval_results.json"
    found = evalplus.evaluate(results, *arguments, **environment)
    assert found == {"HumanEval/0": [("pass", "pass")], "HumanEval/1": [("pass", "fail")]}
    assert door.keys == [KEY, KEY]
    asked = [request.params for request in knowing.requests]
    assert [(one.temperature, one.max_tokens, one.seed) for one in asked] == [(0, 768, None)] * 2


def test_several_answers_are_one_request(evalplus: EvalPlus, desk: tuple[Door, str], knowing: Knowing) -> None:
    environment, arguments = python_command("evalplus", desk[1])
    arguments.remove("--greedy")
    arguments[arguments.index("evalplus.evaluate")] = "evalplus.codegen"
    sampled = ["--n_samples", "3", "--temperature", "0.8", "--root", str(evalplus.folder / "drawn")]
    done = subprocess.run(
        [evalplus.python, *arguments, *sampled],
        cwd=evalplus.folder,
        env=evalplus.environment | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert [(request.n, request.params.temperature, request.params.top_p) for request in knowing.requests] == [
        (3, 0.8, 0.95)
    ] * 2
    (file,) = (evalplus.folder / "drawn/humaneval").glob("*0.8.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["task_id"] for line in lines] == ["HumanEval/0"] * 3 + ["HumanEval/1"] * 3
    assert lines[0]["solution"] == f"{ADD['prompt']}{ADD['canonical_solution']}".strip()


def test_its_scorer_says_of_our_samples_what_ours_says(evalplus: EvalPlus, desk: tuple[Door, str]) -> None:
    run, output, data = (evalplus.folder / name for name in ("run", "result.json", "data"))
    data.mkdir()
    asked = ["--url", desk[1], "--samples", "2", "--run", str(run), "--output", str(output)]
    assert main(["quality", "humaneval", *write(data, "humaneval"), *asked]) == 0
    ours = [(one["right"], one["of"]) for one in json.loads(output.read_text())["details"]]
    assert ours == [(2, 2), (0, 2)]
    arguments = ("-m", "evalplus.evaluate", "--dataset", "humaneval", "--samples", str(run / "samples.jsonl"))
    found = evalplus.evaluate(run / "samples_eval_results.json", *arguments)
    assert found == {"HumanEval/0": [("pass", "pass")] * 2, "HumanEval/1": [("fail", "fail")] * 2}
