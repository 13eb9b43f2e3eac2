"""Weights of noise: what they are, on whichever rank."""

from __future__ import annotations

import pytest
import torch

from model.checkpoint.weights import Share, random_weights
from model.config import ModelConfig
from model.network.parallel import TensorParallel
from tests.support.checkpoints import TINY


def noise(seed: int, rank: int = 0, size: int = 1, **shape: object) -> tuple[int, dict[str, torch.Tensor]]:
    """Their bytes, and they by name, in the order in which they come."""
    model = ModelConfig.model_validate(TINY | shape)
    share = Share(model, TensorParallel(rank, size), torch.device("cpu"), torch.bfloat16)
    found: dict[str, torch.Tensor] = {}
    held = random_weights(share, seed, found.__setitem__)
    assert {name: tuple(value.shape) for name, value in found.items()} == share.shapes()
    return held, found


def test_layers_are_noise_norms_are_one_and_biases_nothing() -> None:
    _, found = noise(seed=1)
    for name, value in found.items():
        assert value.dtype == torch.bfloat16
        if name.endswith("bias"):
            assert not value.any()
        elif ".ln_" in name or name.startswith("ln_f"):
            assert (value == 1).all()
        else:
            assert float(value.float().std()) == pytest.approx(0.02, rel=0.1)
            assert abs(float(value.float().mean())) < 0.002
    assert sum(".ln_" in name or name.startswith("ln_f") for name in found) == 2 * (2 * TINY["n_layer"] + 1)


def test_noise_is_that_of_its_seed_and_rank() -> None:
    _, one = noise(seed=1)
    torch.manual_seed(5)  # nobody else's draws count
    assert all(torch.equal(value, one[name]) for name, value in noise(seed=1)[1].items())
    embeddings = [noise(seed, rank, 2)[1]["wpe.weight"] for seed, rank in ((1, 0), (1, 1), (2, 0), (3, 0))]
    for number, value in enumerate(embeddings):
        same = [torch.equal(value, other) for other in embeddings]
        assert same == [n == number or {n, number} == {1, 2} for n in range(4)], "rank 1 has the next rank's seed"


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_comes_last_and_counts_once(tied: bool) -> None:
    held, found = noise(seed=1, tie_word_embeddings=tied)
    assert list(found)[-1] == "lm_head.weight"
    assert (found["lm_head.weight"] is found["wte.weight"]) == tied
    values = sum(value.nbytes for value in found.values())
    assert held == values - (found["lm_head.weight"].nbytes if tied else 0)
