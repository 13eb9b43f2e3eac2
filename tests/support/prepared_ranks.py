"""What is changed in the process of a rank before it loads (`tests.support.ranks.Prepare`).

In a module of their own, which the ranks' processes are forked with: that of a test imports what takes seconds.
"""

from __future__ import annotations

import torch

from model.backends import choice
from model.scheduling.draft_length import DraftLength
from model.scheduling.speculation import Speculator
from tests.support.drafts import as_long_as_there_is_room

REASON = "this rank has no compiler"


def hinder_native(rank: int) -> None:
    choice.native_obstacle = lambda *_: REASON if rank else None


def hinder_triton(rank: int) -> None:
    choice._triton_obstacle = lambda *_: REASON if rank else None


def hinder_bfloat16(rank: int) -> None:
    torch.cpu._is_avx512_bf16_supported = lambda: not rank


def always_draft(_: int = 0) -> None:
    """Whatever it takes, by the model alone."""
    DraftLength.share = as_long_as_there_is_room  # type: ignore[method-assign]
    Speculator.draft = lambda *_: []  # type: ignore[method-assign]
    Speculator.promises = lambda *_: False  # type: ignore[method-assign]
