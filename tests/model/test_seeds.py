"""Where the randomness of requests without a seed comes from."""

from __future__ import annotations

import pytest

from model.config import EngineConfig
from model.pico import CHECKPOINT
from model.process.rank import Rank
from model.request import Request, SamplingParams
from tests.support.toy_engine import run_to_end, tokens_of


def answers(engine_seed: int | None, request_seed: int | None) -> list[list[int]]:
    """What two starts of an engine draw for the same two requests, all tokens about equally likely."""
    config = EngineConfig(model=str(CHECKPOINT), device="cpu", num_threads=1, num_kv_blocks=200, seed=engine_seed)
    params = SamplingParams(max_tokens=16, temperature=50.0, seed=request_seed, ignore_eos=True)
    rank = Rank(config)
    rank.load()
    found = []
    for _ in range(2):
        engine = rank.engine()
        for name in ("a", "b"):
            engine.add(Request(name, [40, 41, 42], params))
        outputs = run_to_end(engine)
        found += [tokens_of(outputs["a"]), tokens_of(outputs["b"])]
    return found


def test_no_two_starts_draw_the_same_unless_a_seed_is_configured() -> None:
    first, second, first_again, second_again = answers(EngineConfig(model="").seed, None)
    assert len({tuple(found) for found in (first, second, first_again, second_again)}) == 4


@pytest.mark.parametrize("seed", [0, 7])
def test_a_configured_seed_repeats_from_start_to_start(seed: int) -> None:
    first, second, first_again, second_again = answers(seed, None)
    assert (first, second) == (first_again, second_again)
    assert first != second


def test_a_requests_own_seed_repeats_everywhere() -> None:
    assert len({tuple(found) for found in answers(None, 3) + answers(7, 3)}) == 1


def test_random_weights_are_the_same_on_every_start() -> None:
    ranks = [
        Rank(EngineConfig(model=str(CHECKPOINT), device="cpu", cpu_kernels="torch", load_format="random", seed=seed))
        for seed in (None, None, 0)
    ]
    first, *others = [_loaded(rank) for rank in ranks]
    assert all(first == other for other in others)


def _loaded(rank: Rank) -> list[list[float]]:
    rank.load()
    network = rank.engine().executor.runner.backend.network  # type: ignore[attr-defined]
    return [parameter.float().flatten()[:50].tolist() for parameter in network.parameters()]
