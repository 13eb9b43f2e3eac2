"""Guided drafts: as many are right as is said, and the engine writes the given text whatever is drafted, and when."""

from __future__ import annotations

from typing import Any, cast

import pytest

from benchmarks.engine.gpu.drafts import BEYOND, WAYS, Guesses, GuidedEngine, Way
from benchmarks.engine.in_process import drive
from model.executor import Executor
from model.step import StepInFlight
from monitoring.metrics import ACCEPTED_DRAFT_TOKENS, DRAFT_TOKENS
from tests.support.toy_engine import ToyExecutor

TEXT = list(range(1, 45))


@pytest.mark.parametrize("right", [0.0, 0.3, 0.9, 1.0])
def test_as_many_guesses_are_right_as_is_said(right: float) -> None:
    guesses = Guesses(5, TEXT, right, seed=0)
    first = 0
    for known in [8] * 2000:
        found = guesses.draft([0] * (5 + known), 4)
        hits = [a == b for a, b in zip(found, TEXT[known : known + 4], strict=True)]
        assert hits == sorted(hits, reverse=True), "behind a wrong guess all are wrong"
        first += hits[0]
    assert first / 2000 == pytest.approx(right, abs=0.05)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
@pytest.mark.parametrize("sequences", [1, 3, 20])
def test_the_given_texts_are_written(way: Way, sequences: int, monkeypatch: pytest.MonkeyPatch) -> None:
    executor: Any = ToyExecutor(num_blocks=1000, block_size=4, max_model_len=64)
    engine = GuidedEngine(cast(Executor, executor), max_num_seqs=sequences, speculative_tokens=8, async_scheduling=True)
    engine.way = way
    engine.texts = {str(i): [*TEXT[i:], *TEXT[:i], *[0] * BEYOND] for i in range(sequences)}
    written: dict[str, list[int]] = {}
    collect = engine._collect

    def noting(step: StepInFlight) -> Any:
        outputs = collect(step)
        for output in outputs:
            written.setdefault(output.request_id, []).extend(output.token_ids)
        return outputs

    monkeypatch.setattr(engine, "_collect", noting)
    drive(engine, [[100, 200, 300 + i] for i in range(sequences)], [30] * sequences)
    assert written == {str(i): engine.texts[str(i)][:30] for i in range(sequences)}
    stats = engine.stats()
    drafted, accepted = stats[DRAFT_TOKENS], stats[ACCEPTED_DRAFT_TOKENS]
    if way.right is None:
        assert drafted == 0
    elif sequences < 12:  # beyond, a CPU's steps have no room for drafts
        assert drafted > 0
        assert (accepted > 0) == (way.right > 0)
