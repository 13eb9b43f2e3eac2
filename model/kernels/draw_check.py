"""Triton's draws before they serve: the kernel is compiled, run once and compared with the definition."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from model.drawing import LEAST, SCALE, TOP_P, UNIFORM, Table, choose, row_of
from model.kernels.triton_draw import TritonDraw

ROUNDING = 4e-6
"""Of a weight, relative, and so of a uniform number: what another device's exponential may make of it, and more."""


def random_rows(rows: int, vocabulary: int) -> tuple[torch.Tensor, Table]:
    """Logits [R, vocabulary], flat and steep, with equal ones, some that are no numbers; and everything asked of them.

    The last rows have no token. On the CPU, always the same.
    """
    noise = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, vocabulary, generator=noise) * (torch.arange(rows) % 5 + 0.5)[:, None]
    logits[1::3] = logits[1::3].bfloat16().float()
    logits[2::4, ::7] = float("-inf")
    few, many = min(50, vocabulary), vocabulary - vocabulary // 3
    asked = list(itertools.product((0.8, 1.5, 0.2), (0, few, many), (1.0, 0.95, 0.5, 0.0), (0.0, 0.05, 0.5)))
    # in an order in which the first few differ in everything
    order = np.random.default_rng(0).permutation(len(asked))
    mixed: list[tuple[float, int, float, float]] = [(0.0, 0, 1.0, 0.0), *(asked[i] for i in order)]
    uniforms = torch.rand(rows, generator=noise, dtype=torch.float64).tolist()
    table = np.array([row_of(*mixed[i % len(mixed)], u) for i, u in enumerate(uniforms)])
    if rows > 4:
        logits[-1], logits[-2, vocabulary // 2] = float("-inf"), float("nan")
    return logits, table


def possible(logits: torch.Tensor, table: Table, tokens: torch.Tensor) -> torch.Tensor:
    """Whether each of `tokens` [R] may be what the definition draws, if weights are off by ROUNDING. [R] bool

    Any token is, where a row has none.
    """
    best = logits.amax(dim=1)
    inside = (tokens >= 0) & (tokens < logits.shape[1])
    value = logits.gather(1, tokens.clamp(0, logits.shape[1] - 1).unsqueeze(1)).squeeze(1)
    drawn = torch.zeros_like(inside)
    for top_p, least in itertools.product((1 - ROUNDING, 1 + ROUNDING), repeat=2):
        first, last = table.copy(), table.copy()
        for side, shift in ((first, -ROUNDING), (last, ROUNDING)):
            side[:, TOP_P] = np.where(table[:, TOP_P] < 1, table[:, TOP_P] * top_p, 1.0)
            side[:, LEAST] = np.minimum(np.ceil(table[:, LEAST] * least), 2.0**40)
            side[:, UNIFORM] = np.clip(table[:, UNIFORM] + shift, 0, 1 - 2**-53)
        drawn |= (choose(logits, first)[0] <= tokens) & (tokens <= choose(logits, last)[0])
    greedy = torch.from_numpy(table[:, SCALE] == 0).to(logits.device)
    right = torch.where(greedy, value == best, drawn & (value > float("-inf")))
    return inside & (right | ~best.isfinite())


def fault(vocabulary: int, device: torch.device, rows: int = 32) -> str | None:
    """What is wrong with the kernel's draws from a vocabulary on a device, or None. Waits for the device."""
    logits, table = random_rows(rows, vocabulary)
    kernel, there = TritonDraw(), logits.to(device)
    # where rows do not begin where 16 bytes can be read at once, there is another variant
    starts = (0,) if vocabulary % 4 == 0 else (0, 1)
    found = [kernel(there[start:], table[start:]) for start in starts]
    for skipped, (tokens, best) in zip(starts, ((t.cpu(), b.cpu()) for t, b in found), strict=True):
        exact = logits[skipped:].amax(dim=1)
        if not torch.equal(best.nan_to_num(7e30), exact.nan_to_num(7e30)):
            return "does not find the largest logits"
        wrong = int((~possible(logits[skipped:], table[skipped:], tokens)).sum())
        if wrong:
            return f"draws other tokens than the definition in {wrong} of {len(tokens)} rows"
    return None
