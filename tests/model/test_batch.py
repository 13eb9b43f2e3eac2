"""What rank 0 sends is what the other ranks run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from model.batch import Batch
from tests.support.batches import batch_of


@pytest.mark.parametrize("rows", [[(5, 1)], [(300, 1), (17, 1), (0, 40), (16, 5)], [(800, 1)] * 3])
@pytest.mark.parametrize("all_logits", [False, True])
@pytest.mark.parametrize("drawn", [False, True])
def test_a_batch_survives_the_wire(rows: list[tuple[int, int]], all_logits: bool, drawn: bool) -> None:
    batch = batch_of(rows, 49_152, 0, all_logits)
    if drawn:
        batch = dataclasses.replace(batch, broadcasts=2, drawn_rows=np.arange(len(batch.tokens)) - 1)
    if not all_logits:
        batch = dataclasses.replace(batch, logit_rows=np.zeros(0, dtype=np.int64))
    sent = Batch.from_bytes(batch.to_bytes())
    for field in dataclasses.fields(Batch):
        was, now = getattr(batch, field.name), getattr(sent, field.name)
        if isinstance(was, np.ndarray):
            assert np.array_equal(was, now)
            assert now.dtype == np.int64
            assert now.shape == was.shape
        else:
            assert type(was) is type(now)
            assert was == now


def test_nothing_is_cut_off() -> None:
    """The largest slot and id that 32 bits count."""
    most = 2**31 - 1
    one = np.ones(1, dtype=np.int64)
    batch = Batch(one * most, one, one * most, one, one, one[None], one * 0, num_decodes=1)
    sent = Batch.from_bytes(batch.to_bytes())
    assert (sent.tokens, sent.slots) == ([most], [most])
