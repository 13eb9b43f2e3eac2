"""How well the text is foreseen, and how far 8 bits move what the model says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deployments.command.verify.judging import Texts
from deployments.command.verify.readings import CaseRun, Floats, Read, Reading

_LEAST = 1e-12


@dataclass(frozen=True)
class Movement:
    """What 8 bits change in the model, whatever computes it, at the positions that were read.

    divergence: nats of the rounded weights' distribution from the plain one's (Kullback and Leibler), mean and
    largest, over the rounded model's likeliest tokens and all others as one. same: share of positions at which both
    hold the same token for likeliest.
    """

    positions: int
    divergence: float
    largest: float
    same: float
    perplexity: float
    plain_perplexity: float


@dataclass(frozen=True)
class Foreseen:
    """Perplexity of the text whose every position was read: of the engine, and of transformers."""

    positions: int
    engine: float
    exact: float
    served: float


def foreseen(runs: Sequence[CaseRun], texts: Texts, readings: Sequence[Reading]) -> Foreseen | None:
    """Of the cases that look at whole prompts; None where there are none."""
    parts = [(w, *texts.rows(w)) for run in runs if run.case.whole for w in run.written if len(w.own)]
    if not parts:
        return None
    ours = np.concatenate([written.own.astype(np.float64) for written, _, _ in parts])
    exact, served = (
        np.concatenate([readings[number].passes[role].own[rows] for _, number, rows in parts])
        for role in ("exact", "served")
    )
    return Foreseen(len(ours), *map(_perplexity, (ours, exact, served)))


def moved(runs: Sequence[CaseRun], texts: Texts, readings: Sequence[Reading]) -> Movement | None:
    """Of the same positions; None where the weights are as they were."""
    parts = [texts.rows(w) for run in runs if run.case.whole for w in run.written if len(w.own)]
    if not parts or "unquantized" not in readings[0].passes:
        return None
    rounded, plain = (
        [_cut(readings[number].passes[role], rows) for number, rows in parts] for role in ("exact", "unquantized")
    )
    divergences = np.concatenate([_divergence(p.logprobs, q.logprobs) for p, q in zip(plain, rounded, strict=True)])
    same = np.concatenate([p.likeliest == q.likeliest for p, q in zip(plain, rounded, strict=True)])
    return Movement(
        positions=len(same),
        divergence=float(divergences.mean()),
        largest=float(divergences.max()),
        same=float(same.mean()),
        perplexity=_perplexity(np.concatenate([r.own for r in rounded])),
        plain_perplexity=_perplexity(np.concatenate([r.own for r in plain])),
    )


def _cut(read: Read, rows: slice) -> Read:
    return Read(read.own[rows], read.logprobs[rows], read.likeliest[rows])


def _divergence(plain: Floats, rounded: Floats) -> Floats:
    """Log-probabilities of the same tokens [n, k] -> [n]. The sum over all tokens would be larger, if anything."""
    p, q = np.exp(plain), np.exp(rounded)
    rest, other = (np.maximum(1 - each.sum(axis=1), _LEAST) for each in (p, q))
    divergence: Floats = (p * (plain - rounded)).sum(axis=1) + rest * np.log(rest / other)
    return np.maximum(divergence, 0.0)


def _perplexity(logprobs: Floats) -> float:
    mean = -float(np.mean(logprobs))
    return math.exp(mean) if mean < 700 else math.inf
