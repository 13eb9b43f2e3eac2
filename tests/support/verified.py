"""`starcoder verify` without its processes: an engine of tiny random weights here, transformers beside it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from deployments.command.verify.cases import Material, Prompt
from deployments.command.verify.judging import Judgement, Texts, judge
from deployments.command.verify.readings import EngineAnswer, Pass, Place, Reading
from deployments.command.verify.reference import read
from deployments.command.verify.writing import answer
from model.config import EngineConfig
from model.executor import run_worker
from model.network.parallel import TensorParallel
from model.process.rank import Rank
from model.runner import Runner
from tests.support.thread_ranks import as_ranks

VOCABULARY = 24
"""So few tokens that a text repeats itself."""


def silent(text: str) -> None:
    """Says nothing."""


def ids(count: int, seed: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(4, VOCABULARY) for _ in range(count))


def material(quick: bool = True) -> Material:
    """Random tokens, and gaps with StarCoder's markers."""
    fim = (
        Prompt("PSM, 45 tokens", (1, *ids(30, 1), 3, *ids(12, 2), 2)),
        Prompt("SPM, 93 tokens", (1, 3, *ids(40, 3), 2, *ids(50, 4))),
    )
    return Material(ids(900, 0), fim, quick=quick)


def config_of(checkpoint: Path, **options: object) -> EngineConfig:
    """On a CPU; steps of 64 tokens, so that prompts may be longer than these."""
    given = {"dtype": "float32", "max_num_batched_tokens": 64, "max_num_seqs": 6, "num_kv_blocks": 100, **options}
    return EngineConfig(model=str(checkpoint), device="cpu", num_threads=1, **given)


def answered(config: EngineConfig, given: Material) -> EngineAnswer:
    """What the engine says, its ranks threads of this process."""
    if config.tensor_parallel_size == 1:
        rank = Rank(config)
        rank.load()
        return answer(rank, given, silent)
    answers = as_ranks(config.tensor_parallel_size, 1, lambda group: _rank(config, group, given))
    assert answers[0] is not None
    return answers[0]


def _rank(config: EngineConfig, group: TensorParallel, given: Material) -> EngineAnswer | None:
    runner = Runner(config, group, torch.device("cpu"))
    if not group.is_first:
        run_worker(runner)
        return None
    rank = Rank(config)
    rank.group, rank._runner, rank.reports = group, runner, [runner.report] * group.size
    try:
        return answer(rank, given, silent)
    finally:
        group.close()


def readings_of(checkpoint: Path, texts: Texts, passes: Sequence[Pass]) -> list[Reading]:
    return read(checkpoint, texts.texts, passes, Place(False, 1 << 30, checkpoint), silent)


def judged(config: EngineConfig, reference: Path, given: Material | None = None) -> Judgement:
    """An unquantised engine against transformers with the weights of `reference`."""
    written = answered(config, given or material())
    texts = Texts(written.runs)
    exact = "float64" if written.dtype == "float32" else "float32"
    readings = readings_of(reference, texts, [Pass("exact", exact), Pass("served", written.dtype)])
    return judge(written.runs, texts, readings)
