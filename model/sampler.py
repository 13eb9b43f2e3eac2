"""Logits to tokens, as tensor operations over the whole batch.

A row's token depends only on its own logits, parameters, seed and position, never on its neighbours: randomness is a
counter-based generator (SplitMix64 of seed and position), and one uniform number a row inverts the row's cumulative
distribution (`drawing`; on a GPU `kernels.triton_draw`).
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from math import isfinite
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from model import drawing
from model.barred import barred
from model.device import CopyToHost, to_device
from model.drawing import ROWS_AT_ONCE, Choose, Table, parts, table_of
from model.request import Request, TokenLogprobs


class Row(Protocol):
    """What a draw depends on beside its logits: a sequence as it stands before the token."""

    @property
    def request(self) -> Request: ...
    @property
    def seed(self) -> int: ...
    @property
    def output(self) -> list[int]: ...
    @property
    def num_output(self) -> int: ...


def uniform(seeds: npt.NDArray[np.uint64], counters: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), each a function of its (seed, counter) alone.

    SplitMix64's finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), applied twice.
    """
    with np.errstate(over="ignore"):
        z = _mix(seeds + np.uint64(0x9E3779B97F4A7C15))
        z = _mix(z + (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


NO_TOKEN = -1
"""Where logits are no numbers. Any token that was drawn from them would be noise."""


@dataclass(frozen=True)
class Sampled:
    """tokens [R]: some may be NO_TOKEN. logprobs: for the rows that ask, of the chosen token and the best ones."""

    tokens: list[int]
    logprobs: list[TokenLogprobs | None]


class Drawn:
    """Drawn tokens, on the device and on their way from it.

    tokens [R] int64: on the logits' device, for whoever goes on with them there; some token where there is none.
    best [R]: the largest logit of each row.
    """

    def __init__(self, logits: torch.Tensor, tokens: torch.Tensor, best: torch.Tensor, asked: Rows[int | None]) -> None:
        self.tokens = tokens
        self._top = {i: k for i, k in enumerate(asked) if k is not None}
        found: tuple[torch.Tensor, ...] = ()
        if self._top:
            index = to_device(list(self._top), logits.device)
            found = _best_logprobs(logits, tokens[index], max(self._top.values()), index)
        self._copy = CopyToHost(tokens, best, *found)

    def read(self) -> Sampled:
        """Waits for the device."""
        tokens, best, *found = self._copy.wait()
        # NaN counts as the largest, so that one logit tells of all of its row.
        chosen = [t if isfinite(b) else NO_TOKEN for t, b in zip(tokens.tolist(), best.tolist(), strict=True)]
        logprobs: list[TokenLogprobs | None] = [None] * len(chosen)
        if found:
            entries = _entries([chosen[i] for i in self._top], found, list(self._top.values()))
            for i, entry in zip(self._top, entries, strict=True):
                logprobs[i] = entry
        return Sampled(chosen, logprobs)


def draw(logits: torch.Tensor, rows: Rows[Row], eos_ids: tuple[int, ...], choose: Choose = drawing.choose) -> Drawn:
    """Draw the next token of each sequence in `rows` from its row of `logits` [R, vocabulary] (float32).

    Nothing in it waits for the device, whatever the rows ask for. choose: the definition, or a kernel that repeats it.
    """
    tokens, best = choose_next(logits, rows, eos_ids, choose)
    return Drawn(logits, tokens, best, [s.request.params.logprobs for s in rows])


def choose_next(
    logits: torch.Tensor, rows: Rows[Row], eos_ids: tuple[int, ...], choose: Choose = drawing.choose
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens alone that `draw` would draw, and the largest logits, as `Choose` has them."""
    with barred(logits, [s.request for s in rows], eos_ids):
        return choose(_adjust(logits, rows, eos_ids), _table(rows))


def _table(rows: Rows[Row]) -> Table:
    seeds = np.array([s.seed for s in rows], dtype=np.uint64)
    counters = np.array([s.num_output for s in rows], dtype=np.uint64)
    params = (s.request.params for s in rows)
    return table_of([(p.temperature, p.top_k, p.top_p, p.min_p) for p in params], uniform(seeds, counters))


def _column(values: Rows[float], like: torch.Tensor) -> torch.Tensor:
    return to_device(np.array(values, dtype=np.float32), like.device).unsqueeze(1)


def _adjust(logits: torch.Tensor, rows: Rows[Row], eos_ids: tuple[int, ...]) -> torch.Tensor:
    """Bias, minimum length and penalties; a copy only where one of them applies."""
    params = [s.request.params for s in rows]
    biased = [(i, t, b) for i, p in enumerate(params) for t, b in p.logit_bias.items()]
    barred = [
        (i, t)
        for i, (s, p) in enumerate(zip(rows, params, strict=True))
        if s.num_output < p.min_tokens
        for t in {*(() if p.ignore_eos else eos_ids), *p.stop_token_ids}
    ]
    penalised = [i for i, p in enumerate(params) if p.penalises]
    if not (biased or barred or penalised):
        return logits
    logits = logits.clone()
    if biased:
        i, t, b = (to_device(column, logits.device) for column in zip(*biased, strict=True))
        logits.index_put_((i, t), b.to(logits.dtype), accumulate=True)
    if barred:
        i, t = (to_device(column, logits.device) for column in zip(*barred, strict=True))
        logits.index_put_((i, t), torch.full((len(barred),), float("-inf"), device=logits.device))
    for part in parts(penalised, logits):
        index = to_device(part, logits.device)
        logits[index] = _penalise(logits[index], [rows[i] for i in part])
    return logits


def _penalise(logits: torch.Tensor, rows: Rows[Row]) -> torch.Tensor:
    """Repetition (CTRL, arXiv:1909.05858; prompt and output), frequency and presence (OpenAI; output only)."""
    params = [s.request.params for s in rows]
    in_output = _counts([s.output for s in rows], logits)
    seen = (in_output + _counts([s.request.prompt_ids for s in rows], logits)) > 0
    repetition = _column([p.repetition_penalty for p in params], logits)
    scaled = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits = torch.where(seen, scaled, logits)
    logits = logits - in_output * _column([p.frequency_penalty for p in params], logits)
    return logits - (in_output > 0) * _column([p.presence_penalty for p in params], logits)


def _counts(tokens: Rows[Rows[int]], like: torch.Tensor) -> torch.Tensor:
    """[R, vocabulary]: how often each token occurs in each row's list."""
    flat = np.concatenate([np.asarray(t, dtype=np.int64) for t in tokens])
    row = np.repeat(np.arange(len(tokens)), [len(t) for t in tokens])
    index = to_device(row * like.shape[1] + flat, like.device)
    counts = torch.zeros(like.numel(), dtype=torch.float32, device=like.device)
    return counts.index_add_(0, index, torch.ones_like(index, dtype=torch.float32)).view_as(like)


def token_logprobs(logits: torch.Tensor, tokens: Rows[int], top: Rows[int]) -> list[TokenLogprobs]:
    """Log-probabilities under the unmodified model: row i's `tokens[i]`, and its best `top[i]` alternatives.

    logits [R, vocabulary] float32. Waits for the device.
    """
    found = _best_logprobs(logits, to_device(tokens, logits.device), max(top, default=0))
    return _entries(tokens, CopyToHost(*found).wait(), top)


def _best_logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, top: int, rows: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """Of each row: the log-probability of its token [R], and the best ids and theirs [R, top].

    rows [R]: of the logits; None: all, in order.
    """
    parts = logits.split(ROWS_AT_ONCE) if rows is None else (logits[r] for r in rows.split(ROWS_AT_ONCE))
    found = [_best_of_part(*part, top) for part in zip(parts, tokens.split(ROWS_AT_ONCE), strict=True)]
    return tuple(map(torch.cat, zip(*found, strict=True)))


def _best_of_part(logits: torch.Tensor, tokens: torch.Tensor, top: int) -> tuple[torch.Tensor, ...]:
    logprobs = torch.log_softmax(logits, dim=-1)
    values, ids = logprobs.topk(min(top, logits.shape[1]), dim=-1)
    return logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1), ids, values


def _entries(tokens: Rows[int], found: Rows[torch.Tensor], top: Rows[int]) -> list[TokenLogprobs]:
    chosen, ids, values = (t.tolist() for t in found)
    best = [list(zip(i, v, strict=True)) for i, v in zip(ids, values, strict=True)]
    return [TokenLogprobs(t, c, b[:k]) for t, c, b, k in zip(tokens, chosen, best, top, strict=True)]
