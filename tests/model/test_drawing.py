"""What a draw is, against the same in plain Python and in float64, a row and a token at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import drawing
from model.drawing import choose, parts, row_of

ROUNDING = 4e-6
"""Of a weight, relative: float32's exponents and exponentials."""


def left(logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float) -> dict[int, float]:
    """The tokens that may be drawn, in order, and their weights."""
    best = max(logits)
    ranking = sorted((i for i in range(len(logits)) if logits[i] > -math.inf), key=lambda i: (-logits[i], i))
    ranking = ranking[: top_k or None]
    weights = {i: math.exp((logits[i] - best) / temperature) for i in ranking}
    total = math.fsum(weights.values())
    before, kept = 0.0, []
    for i in ranking:
        if kept and (before >= top_p * total or weights[i] < min_p):
            break
        kept.append(i)
        before += weights[i]
    return {i: weights[i] for i in sorted(kept)}


def token_at(weights: dict[int, float], uniform: float) -> int:
    ends = list(itertools.accumulate(weights.values()))
    return next((i for i, end in zip(weights, ends, strict=True) if end > uniform * ends[-1]), list(weights)[-1])


def possible(logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float, u: float) -> set[int]:
    """What may be drawn by somebody who rounds weights."""
    found: set[int] = set()
    less, more = 1 - ROUNDING, 1 + ROUNDING
    for p, m in itertools.product({top_p, top_p * less, min(top_p * more, 1)}, {min_p, min_p * less, min_p * more}):
        weights = left(logits, temperature, top_k, p, m)
        ends = [token_at(weights, max(u - ROUNDING, 0)), token_at(weights, u), token_at(weights, u + ROUNDING)]
        found |= {i for i in weights if ends[0] <= i <= ends[2]}
    return found


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[float], tuple[float, int, float, float, float]]:
    """Logits, with equal ones and some that cannot be, and what is asked for."""
    size = draw(st.integers(1, 40))
    value = st.one_of(st.sampled_from([0.0, 1.0, 1.5, -2.0, -math.inf]), st.floats(-30, 30, width=32))
    logits = draw(st.lists(value, min_size=size, max_size=size).filter(lambda values: max(values) > -math.inf))
    temperature = draw(st.sampled_from([1e-12, 0.01, 0.5, 0.8, 1.0, 2.0, 50.0]))
    top_k = draw(st.integers(0, size + 2))
    top_p = draw(st.one_of(st.just(1.0), st.floats(0, 1)))
    min_p = draw(st.one_of(st.just(0.0), st.floats(0, 1)))
    return logits, (temperature, top_k, top_p, min_p, draw(st.floats(0, 1, exclude_max=True)))


@given(st.lists(rows(), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_a_draw_is_the_token_on_which_the_uniform_number_falls(batch):
    width = max(len(logits) for logits, _ in batch)
    logits = torch.full((len(batch), width), -math.inf)
    for i, (row, _) in enumerate(batch):
        logits[i, : len(row)] = torch.tensor(row)
    table = np.array([row_of(*asked) for _, asked in batch])
    tokens, best = choose(logits, table)
    assert best.tolist() == logits.amax(1).tolist()
    for i, (row, asked) in enumerate(batch):
        assert int(tokens[i]) in possible(logits[i].tolist(), *asked), (row, asked)
        alone, _ = choose(logits[i : i + 1], table[i : i + 1])
        assert alone[0] == tokens[i], "a row depends on its neighbours"


def of(logits: list[float], uniforms: list[float], **asked: float) -> list[int]:
    """What uniform numbers draw."""
    params = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | asked
    table = np.array([row_of(**params, uniform=u) for u in uniforms])  # type: ignore[arg-type]
    return choose(torch.tensor([logits] * len(uniforms)), table)[0].tolist()


FINE = (np.arange(64) / 64).tolist()


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 3}, {0, 1, 3}),
        ({"top_p": 0.64}, {1, 3}),  # the two weigh 0.644
        ({"top_p": 0.65}, {0, 1, 3}),
        ({"min_p": 1.0}, {1, 3}),
        ({"top_k": 4, "top_p": 0.72}, {1, 3}),  # of the four, the two weigh 0.731
        ({"top_k": 4, "top_p": 0.74}, {0, 1, 3}),
        ({"top_p": 0.0}, {1}),
    ],
)
def test_of_equal_tokens_the_first_are_left(asked, drawn):
    logits = [1.0, 2.0, 1.0, 2.0, 1.0, -math.inf]
    assert set(of(logits, FINE, **asked)) == drawn


def test_tokens_are_laid_end_to_end_in_order():
    logits = [math.log(w) for w in (1, 4, 2, 1)]
    assert of(logits, [0, 0.124, 0.126, 0.624, 0.626, 0.874, 0.876]) == [0, 0, 1, 1, 2, 2, 3]
    assert of(logits, [0, 0.65, 0.68], top_k=2) == [1, 1, 2]


def test_the_last_number_draws_the_last_token_that_weighs_anything():
    assert of([0.0, 3.0, -math.inf, 1.0, -100.0, -math.inf], [1 - 2**-53]) == [3]


def test_the_best_token_is_left_whatever_is_asked_for():
    assert set(of([0.0, 1.0, 0.5], FINE, top_p=0.0, min_p=1.0, top_k=1)) == {1}
    assert set(of([0.0, 1.0, 0.5], FINE, temperature=1e-45)) == {1}


def test_more_weight_than_float64_counts_in_units():
    """All tokens of a large vocabulary weigh the most there is."""
    assert of([0.0] * 60_000, [0.0, 0.5, 1 - 2**-53]) == [0, 30_000, 59_999]
    assert of([0.0] * 60_000, [1 - 2**-53], top_p=0.5) == [29_999]


def test_rows_in_parts_draw_what_they_draw_together(monkeypatch):
    logits = torch.randn(11, 300, generator=torch.Generator().manual_seed(0))
    table = np.array([row_of(0.8, i % 3 * 20, (1.0, 0.9)[i % 2], 0.01 * (i % 4), i / 11) for i in range(11)])
    together, _ = choose(logits, table)
    monkeypatch.setattr(drawing, "CPU_LOGITS", 600)
    assert torch.equal(choose(logits, table)[0], together)


def test_each_row_is_worked_on_once(monkeypatch):
    monkeypatch.setattr(drawing, "CPU_LOGITS", 620)
    rows = np.array([0, 2, 3, 5, 8, 9, 10])
    narrow, wide = torch.zeros(11, 300), torch.zeros(11, 700)
    assert [part.tolist() for part in parts(rows, narrow)] == [[0, 2], [3, 5], [8, 9], [10]]
    assert [part.tolist() for part in parts(rows.tolist(), wide)] == [[row] for row in rows.tolist()]
    assert [part.tolist() for part in parts(rows, torch.zeros(11, 1))] == [rows.tolist()]
    assert list(parts([], narrow)) == []
