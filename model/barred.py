"""Tokens that are never drawn.

Their logits are minus infinity while a batch is drawn, and stand again behind it: log-probabilities are of the
unmodified model. It is done where rank 0 has whole rows, after any recorded step, so that no backend need know of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch

from model.device import to_device
from model.request import Request


@contextmanager
def barred(logits: torch.Tensor, requests: Sequence[Request], eos_ids: tuple[int, ...]) -> Iterator[None]:
    """Keep each row of `logits` [R, vocabulary] from its request's `barred_ids`, in place, for the length of the block.

    eos_ids: may be drawn all the same. Nothing in it waits for the device.
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, request in enumerate(requests):
        if request.barred_ids:
            rows.setdefault(request.barred_ids, []).append(row)
    places = [_Places(logits, of, _columns(ids, eos_ids, logits.device)) for ids, of in rows.items()]
    for place in places:
        place.bar()
    yield
    for place in places:
        place.restore()


@lru_cache(maxsize=64)
def _columns(ids: tuple[int, ...], eos_ids: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Mostly those of the model's special tokens: made once."""
    return to_device(np.array([id for id in ids if id not in eos_ids], dtype=np.int64), device)


class _Places:
    """Some columns of some rows, and what stood there."""

    def __init__(self, logits: torch.Tensor, rows: list[int], columns: torch.Tensor) -> None:
        self._logits = logits
        self._columns = columns
        self._rows = None if len(rows) == len(logits) else to_device(rows, logits.device).unsqueeze(1)
        self._kept = logits.index_select(1, columns) if self._rows is None else logits[self._rows, columns]

    # Logits that a network has computed in inference mode are changed in place only there.

    @torch.inference_mode()
    def bar(self) -> None:
        if self._rows is None:
            self._logits.index_fill_(1, self._columns, float("-inf"))
        else:
            self._logits[self._rows, self._columns] = float("-inf")

    @torch.inference_mode()
    def restore(self) -> None:
        if self._rows is None:
            self._logits.index_copy_(1, self._columns, self._kept)
        else:
            self._logits[self._rows, self._columns] = self._kept
