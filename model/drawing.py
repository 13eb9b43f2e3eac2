"""What a drawn token is: one definition, which kernels repeat (`kernels.triton_draw`).

A token's weight is its share of the softmax relative to the best token's, in whole units of 2^-40, rounded down. Sums
of such weights are exact, so nothing depends on the order in which a device adds them: two devices can differ in the
last bits of an exponential only.

Of a row ranked by logit, equal ones by token id, are left:

1. the first `top_k`;
2. of these, the shortest beginning that holds `top_p` of their weight, the best token at least;
3. of these, those that weigh at least `min_p` as much as the best.

They are laid end to end in order of token id, and the token is drawn on which the row's uniform number falls. One
that has no weight is never drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from model.device import to_device

UNIT = 2.0**40
"""The best token's weight. A vocabulary of 2^23 such weights would still be summed without overflow."""

SCALE, TOP_K, TOP_P, LEAST, UNIFORM = range(5)
"""Columns of what is known of each row: log2(e) / temperature, a float32, and 0 for greedy rows; tokens, 0 for all;
share; least weight in units; the uniform number in [0, 1). All of them are exact in float64."""

Table = npt.NDArray[np.float64]
"""[R, 5], on the host."""

Choose = Callable[[torch.Tensor, Table], tuple[torch.Tensor, torch.Tensor]]
"""logits [R, vocabulary] float32 and their table -> tokens [R] int64 and the largest logits [R], on the logits' device.

Nothing in it waits for the device. A largest logit is NaN where any of its row is; the token is some token then."""

ROWS_AT_ONCE = 64
"""Rows that are drawn from, or whose log-probabilities are computed, together: intermediate values take ten times the
memory of their logits, and must not take it for every row of a large step. `WORKING_BYTES` says how much it is."""

CPU_LOGITS = 200_000
"""On a CPU, where they are fewer: what stays in its caches takes half of the time. One row at least."""

WORKING_BYTES = 52
"""Bytes of a logit's intermediate values at most, the logit itself left out."""


def table_of(asked: Sequence[tuple[float, int, float, float]], uniforms: npt.NDArray[np.float64]) -> Table:
    """asked: of each row, temperature, top_k, top_p and min_p."""
    temperatures, top_k, top_p, min_p = np.array(asked, dtype=np.float64).reshape(-1, 4).T
    with np.errstate(divide="ignore", over="ignore"):
        # infinity times zero would be the best token's exponent, and one over zero the range of the others
        scales = np.clip(1.4426950408889634 / temperatures, 1e-30, 1e30)
    scales = np.where(temperatures > 0, scales, 0).astype(np.float32)
    return np.stack([scales, top_k, top_p, np.ceil(min_p * UNIT), uniforms], axis=1)


def row_of(temperature: float, top_k: int, top_p: float, min_p: float, uniform: float) -> list[float]:
    """A row of the table."""
    row: list[float] = table_of([(temperature, top_k, top_p, min_p)], np.array([uniform]))[0].tolist()
    return row


def parts(rows: npt.NDArray[np.int64] | list[int], logits: torch.Tensor) -> Iterator[npt.NDArray[np.int64]]:
    """Of some rows of `logits`, those that are worked on together."""
    size = ROWS_AT_ONCE if logits.is_cuda else min(ROWS_AT_ONCE, max(1, CPU_LOGITS // logits.shape[1]))
    return (np.asarray(rows[start : start + size]) for start in range(0, len(rows), size))


def choose(logits: torch.Tensor, table: Table) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, as `Choose` has it."""
    tokens = logits.argmax(dim=-1)
    best = logits.gather(1, tokens.unsqueeze(1)).view(-1)
    ranked = (table[:, TOP_K] > 0) | (table[:, TOP_P] < 1)
    for group in (~ranked, ranked):
        for part in parts(np.flatnonzero((table[:, SCALE] > 0) & group), logits):
            index = to_device(part, logits.device)
            tokens[index] = _draw(logits[index], best[index].unsqueeze(1), table[part])
    return tokens, best


def _draw(logits: torch.Tensor, best: torch.Tensor, table: Table) -> torch.Tensor:
    """logits [R, V], best [R, 1] -> [R]; every row is ranked, or none."""
    scale, top_k, top_p, least, uniform = to_device(table.T, logits.device).unsqueeze(2)
    scale = scale.float()
    weights = _weights(logits, best, scale)
    weights = weights.masked_fill_(weights < least, 0)
    if table[0, TOP_K] > 0 or table[0, TOP_P] < 1:
        bound, ties = _bound(logits, best, scale, top_k.long(), top_p)
        weights = weights.masked_fill_(logits < bound, 0)
        equal = logits == bound
        weights = weights.masked_fill_(equal & (equal.cumsum(dim=1, dtype=torch.int32) > ties), 0)
    ends = weights.cumsum(dim=1)
    total = ends[:, -1:]
    # a total of more than 53 bits may be rounded up
    target = torch.minimum((uniform * total.double()).long(), total - 1)
    index = torch.searchsorted(ends, target, right=True).squeeze(1)
    return index.clamp_(max=logits.shape[1] - 1)  # beyond it where logits are no numbers


def _weights(logits: torch.Tensor, best: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """[R, V] int64"""
    return (logits - best).mul_(scale).exp2_().mul_(UNIT).long()


def _bound(
    logits: torch.Tensor, best: torch.Tensor, scale: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row the logit of the last token that top_k and top_p leave, and how many of equal logit [R, 1]."""
    size = logits.shape[1]
    ranking = _descending(logits)
    ends = _weights(ranking, best, scale).cumsum_(dim=1)
    top_k = torch.where(top_k > 0, top_k, size).clamp_(max=size)
    total = ends.gather(1, top_k - 1)
    wanted = torch.minimum((top_p * total.double()).ceil_().long(), total).clamp_(min=1)
    last = torch.minimum(torch.searchsorted(ends, wanted), top_k - 1).clamp_(min=0)
    bound = ranking.gather(1, last)
    return bound, last + 1 - (logits > bound).sum(dim=1, keepdim=True)


def _descending(logits: torch.Tensor) -> torch.Tensor:
    """Each row sorted. numpy sorts by vector instructions, 25 times as fast as PyTorch on a CPU with AVX-512."""
    if logits.is_cuda:
        return logits.sort(dim=1, descending=True).values
    return torch.from_numpy(np.sort(logits.numpy(), axis=1)).flip(1)
