"""lm-evaluation-harness as published, by its documented command, beside what it makes of the same weights itself."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from deployments.clients.reference import SERVER
from model.checkpoint.hub import resolve_checkpoint
from tests.clients.configured import python_command
from tests.support.embedded_app import embedded_server
from tests.support.packages import CLIENTS, ROOT, python_packages

pytestmark = [
    pytest.mark.client("lm-eval (PyPI)", "OpenAI"),
    pytest.mark.asyncio(loop_scope="module"),
]

CHOICE, LINE, PERPLEXITY, DRAWN = TASKS = ("idiom_choice", "idiom_line", "idiom_perplexity", "idiom_drawn")


@dataclass(frozen=True)
class Scores:
    """results: metrics by task. samples: by task, what the model was found to answer to each document, in order."""

    results: dict[str, dict[str, Any]]
    samples: dict[str, list[Any]]

    def metrics(self, task: str) -> dict[str, float]:
        found = self.results[task].items()
        return {key: value for key, value in found if isinstance(value, float) and "stderr" not in key}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No hub, and no cache but this test's."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path_factory.mktemp("hub"))}
    threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **offline, **threads}


async def finished(*command: str | Path, env: dict[str, str]) -> None:
    """In a checkout, as documented."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        said, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, said.decode(errors="replace")[-4000:]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scores]:
    """What the documented command finds, of the model that it names."""
    python, output = python_packages("evaluation", beside_ours=True), tmp_path_factory.mktemp("served")
    async with embedded_server(SERVER.model) as url:
        key, arguments = python_command("lm-evaluation-harness", url, SERVER.model)
        arguments[arguments.index("--tasks") + 1] = ",".join(TASKS)
        arguments += ["--output_path", str(output), "--log_samples"]
        await finished(python, *arguments, env=environment | key)
    (results,) = output.rglob("results_*.json")
    samples = {}
    for task in TASKS:
        (file,) = output.rglob(f"samples_{task}_*.jsonl")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        samples[task] = [line["resps"] for line in sorted(lines, key=lambda line: line["doc_id"])]
    yield Scores(json.loads(results.read_text())["results"], samples)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def computed(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """What transformers make of the same weights, as the harness itself uses it."""
    python, output = (
        python_packages("evaluation", beside_ours=True),
        tmp_path_factory.mktemp("computed") / "scores.json",
    )
    driver, tasks = CLIENTS / "drivers/lm_eval_transformers.py", (CHOICE, LINE, PERPLEXITY)
    checkpoint = resolve_checkpoint(SERVER.model)
    await finished(python, driver, checkpoint, CLIENTS / "evaluation", output, *tasks, env=environment)
    found = json.loads(output.read_text())
    samples = {task: [resps for _, resps in sorted(found["samples"][task])] for task in tasks}
    return Scores(found["results"], samples)


async def test_scores_are_those_of_the_harness_own_backend(served: Scores, computed: Scores) -> None:
    for task, names in (
        (CHOICE, {"acc,none", "acc_norm,none"}),
        (LINE, {"exact_match,none"}),
        (PERPLEXITY, {"bits_per_byte,none", "byte_perplexity,none", "word_perplexity,none"}),
    ):
        wanted = computed.metrics(task)
        assert wanted.keys() == names
        assert served.metrics(task) == pytest.approx(wanted, rel=1e-4)
    assert served.metrics(LINE) == {"exact_match,none": 0.8}


async def test_each_continuation_is_as_likely_as_transformers_says(served: Scores, computed: Scores) -> None:
    """And as greedy: the harness takes that from `top_logprobs`."""

    def pairs(scores: Scores) -> list[tuple[float, bool]]:
        choices = [choice for document in scores.samples[CHOICE] for choice in document]
        return [(float(logprob), str(greedy) == "True") for ((logprob, greedy),) in choices]

    ours, theirs = pairs(served), pairs(computed)
    assert len(ours) == 15
    assert {greedy for _, greedy in theirs} == {True, False}
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [one for one, _ in ours] == pytest.approx([one for one, _ in theirs], abs=1e-3)
    whole = [[float(one) for ((one,),) in [document]] for document in served.samples[PERPLEXITY]]
    assert whole == [[pytest.approx(float(one), abs=1e-3)] for ((one,),) in computed.samples[PERPLEXITY]]


async def test_greedy_lines_are_those_of_transformers(served: Scores, computed: Scores) -> None:
    assert served.samples[LINE] == computed.samples[LINE]
    assert [" as np"] in [line for document in served.samples[LINE] for line in document]


async def test_repeats_are_one_answer(served: Scores) -> None:
    """Its seed is the same for each, and ours are exact: docs/evaluation.md warns of that."""
    for ((*repeats,),) in served.samples[DRAWN]:
        assert len(repeats) == 4
        assert len(set(repeats)) == 1
