"""Batched sampling against transformers' logits processors and against frequencies."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from model.request import Request, SamplingParams
from model.sampler import draw, token_logprobs, uniform
from model.scheduling.sequence import Sequence

EOS = (0,)


def sequence(prompt=(1,), output=(), seed=0, barred=(), **params) -> Sequence:
    request = Request("r", list(prompt), SamplingParams(**params), barred_ids=barred)
    one = Sequence(request, seed=seed, arrival=0, limit=1000)
    one.tokens += output
    return one


def draws(logits: torch.Tensor, count: int, **params) -> Counter[int]:
    """`count` independent draws from one distribution, in one batch."""
    rows = [sequence(seed=s, **params) for s in range(count)]
    return Counter(draw(logits.expand(count, -1), rows, EOS).read().tokens)


def assert_follows(counts: Counter[int], probabilities: torch.Tensor) -> None:
    """Chi-squared test at a level (10^-6) that a right sampler does not fail by chance; seeds are fixed anyway."""
    from math import sqrt

    total = sum(counts.values())
    assert all(probabilities[token] > 0 for token in counts), "drew a token of probability zero"
    expected = probabilities * total
    cells = [i for i in range(len(probabilities)) if expected[i] >= 5]
    statistic = sum((counts[i] - float(expected[i])) ** 2 / float(expected[i]) for i in cells)
    freedom = max(len(cells) - 1, 1)
    # Wilson-Hilferty: a chi-squared variable's cube root is nearly normal
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / sqrt(2 / (9 * freedom))
    assert z < 4.75, (statistic, freedom)


@pytest.mark.parametrize(
    ("params", "warpers"),
    [
        ({"temperature": 1.0}, []),
        ({"temperature": 0.6}, [TemperatureLogitsWarper(0.6)]),
        ({"temperature": 1.0, "top_k": 7}, [TopKLogitsWarper(7)]),
        ({"temperature": 1.0, "top_p": 0.8}, [TopPLogitsWarper(0.8)]),
        ({"temperature": 1.0, "min_p": 0.1}, [MinPLogitsWarper(0.1)]),
        (
            {"temperature": 1.4, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
            [TemperatureLogitsWarper(1.4), TopKLogitsWarper(20), TopPLogitsWarper(0.9), MinPLogitsWarper(0.02)],
        ),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, dict) else "",
)
def test_draws_follow_the_distribution_transformers_gives(params, warpers):
    logits = torch.randn(1, 60, generator=torch.Generator().manual_seed(5)) * 2
    want = LogitsProcessorList(warpers)(torch.ones(1, 1, dtype=torch.long), logits.clone()).softmax(-1)[0]
    assert_follows(draws(logits, 20_000, **params), want)


@pytest.mark.parametrize("lower", [0.0, 4.0])
def test_repetition_penalty_as_transformers_has_it(lower):
    """A logit below zero is multiplied, one above it divided."""
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(1)) - lower
    best, second, third = logits[0].topk(3).indices.tolist()
    assert (logits.max() < 0) == (lower > 0)
    penalties = (1.0, 1.05, 1.8, 30.0)
    rows = [sequence([best, 3, 4], [second, second], temperature=0, repetition_penalty=p) for p in penalties]
    seen = torch.tensor([[best, 3, 4, second, second]])
    want = [int(RepetitionPenaltyLogitsProcessor(p)(seen, logits.clone()).argmax()) for p in penalties]
    assert {best, third} <= set(want)
    assert draw(logits.expand(len(rows), -1), rows, EOS).read().tokens == want


def test_frequency_and_presence_count_the_output_only():
    logits = torch.zeros(1, 10)
    logits[0, 3], logits[0, 5], logits[0, 6] = 2.0, 1.5, 1.0
    for params, output, expected in (
        ({"frequency_penalty": 0.4}, [3], 3),
        ({"frequency_penalty": 0.4}, [3, 3], 5),
        ({"presence_penalty": 0.6}, [3, 3], 5),
        ({"presence_penalty": 0.4}, [3, 3, 3], 3),
        ({"frequency_penalty": 5.0}, [], 3),
        ({"frequency_penalty": -1.0}, [6, 6], 6),
    ):
        rows = [sequence([3, 3, 3], output, temperature=0, **params)]
        assert draw(logits, rows, EOS).read().tokens == [expected], (params, output)


def test_logit_bias_and_minimum_length():
    logits = torch.zeros(4, 10)
    logits[:, 0] = 3.0
    rows = [
        sequence(temperature=0, logit_bias={4: 100.0}),
        sequence(temperature=0, logit_bias={0: -100.0, 7: 0.5}),
        sequence(temperature=0, min_tokens=1, logit_bias={9: 1.0}),
        sequence(temperature=0, output=[5], min_tokens=1),
    ]
    assert draw(logits, rows, EOS).read().tokens == [4, 7, 9, 0]


@pytest.mark.parametrize("inferred", [False, True])
def test_barred_tokens_are_never_drawn_and_reported_all_the_same(inferred):
    """Some rows bar, or all; a network's logits were made in inference mode, and stand as they were."""
    with torch.inference_mode(inferred):
        logits = torch.randn(4, 60, generator=torch.Generator().manual_seed(3))
        logits[:, [0, 1, 2]] += 9
    before = logits.clone()
    bars = [(0, 1, 2), (0, 1), (), (0, 1, 2)]
    for which in (bars, [bars[0]] * 4):
        rows = [sequence(seed=i, temperature=float(i % 2), logprobs=2, barred=bar) for i, bar in enumerate(which)]
        sampled = draw(logits, rows, EOS).read()
        assert torch.equal(logits, before)
        for row, bar, token, entry in zip(before, which, sampled.tokens, sampled.logprobs, strict=True):
            allowed = {0, 1, 2} - {*bar} | {0}
            assert token in allowed, "end of text may always be drawn"
            assert entry.logprob == pytest.approx(float(row.log_softmax(0)[token]), abs=1e-5)
            assert {t for t, _ in entry.top} < {0, 1, 2}


def test_what_is_barred_stays_so_under_a_bias_and_penalties():
    logits = torch.zeros(1, 10)
    logits[0, 3], logits[0, 5] = 9.0, 2.0
    asked = {"logit_bias": {3: 50.0, 5: -100.0}, "presence_penalty": -2.0, "min_tokens": 1}
    row = sequence([3], [4], temperature=0, barred=(3,), **asked)
    assert draw(logits, [row], EOS).read().tokens == [4]


def test_one_row_of_each_kind_in_one_batch_equals_each_alone():
    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(9))
    rows = [
        sequence(temperature=0),
        sequence(seed=1, temperature=1.0),
        sequence(seed=2, temperature=0.8, top_p=0.9),
        sequence(seed=3, temperature=1.2, top_k=5, logprobs=3),
        sequence([4, 5], [6], seed=4, temperature=0.5, frequency_penalty=1.0),
        sequence(seed=5, temperature=1.0, min_p=0.2, logit_bias={3: 2.0}),
    ]
    together = draw(logits, rows, EOS).read()
    for i, row in enumerate(rows):
        alone = draw(logits[i : i + 1], [row], EOS).read()
        assert alone.tokens == together.tokens[i : i + 1]
        assert (alone.logprobs[0] is None) == (together.logprobs[i] is None)


def test_a_tiny_temperature_is_greedy_and_finite():
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(2)) * 5
    assert draws(logits, 50, temperature=1e-5) == Counter({int(logits.argmax()): 50})


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32))
def test_uniform_is_in_range_and_repeatable(seed, counter):
    values = uniform(np.array([seed] * 2, dtype=np.uint64), np.array([counter] * 2, dtype=np.uint64))
    assert 0 <= values[0] < 1
    assert values[0] == values[1]


def test_uniform_is_uniform_over_seeds_and_over_counters():
    numbers = np.arange(50_000, dtype=np.uint64)
    for values in (uniform(numbers, numbers * 0), uniform(numbers * 0, numbers), uniform(numbers, numbers)):
        counts = np.histogram(values, bins=50, range=(0, 1))[0]
        assert_follows(Counter(dict(enumerate(counts.tolist()))), torch.full((50,), 1 / 50))
    pairs = np.corrcoef(uniform(numbers, numbers * 0), uniform(numbers + np.uint64(1), numbers * 0))[0, 1]
    assert abs(pairs) < 0.02


@given(st.integers(1, 6), st.integers(0, 8))
@settings(max_examples=30, deadline=None)
def test_token_logprobs_equal_log_softmax(rows, top):
    logits = torch.randn(rows, 30, generator=torch.Generator().manual_seed(rows))
    tokens = list(range(rows))
    for i, entry in enumerate(token_logprobs(logits, tokens, [top] * rows)):
        want = logits[i].double().log_softmax(0)
        assert entry.logprob == pytest.approx(float(want[tokens[i]]), abs=1e-5)
        assert [t for t, _ in entry.top] == want.topk(top).indices.tolist()
