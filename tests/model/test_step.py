"""A step between its start and its end: whose rows are whose, who waits for it, and where its time went."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from model.executor import ForwardTimer
from model.limits import BATCHED_TOKENS, DRAFTED_ROWS, PrefillFloor, StepLimits
from model.request import Request, SamplingParams
from model.scheduling.sequence import Scheduled, Sequence
from model.step import StepInFlight, draft_rows, may_stay


def scheduled(name: str, draft: tuple[int, ...] = (), count: int = 1, **params: Any) -> Scheduled:
    """A sequence of a prompt of 3 tokens that has drawn 2, and is to compute the last `count` of them."""
    one = Sequence(Request(name, [1, 2, 3], SamplingParams(**params)), seed=7, arrival=0, limit=50)
    one.tokens += [4, 5]
    one.computed = 5 - count
    return Scheduled(one, count, draft)


def step_of(finishing: list[Scheduled], sequences: int = 0, tokens: int = 0, forward: float = 0.0) -> StepInFlight:
    timer = cast(ForwardTimer, SimpleNamespace(seconds=lambda: forward))
    return StepInFlight(finishing, None, False, sequences, tokens, 0.0, timer)


def test_a_row_is_a_sequence_as_if_its_drafts_first_tokens_had_been_drawn() -> None:
    rows = draft_rows([scheduled("a"), scheduled("b", (8, 9))])
    assert [row.request.request_id for row in rows] == ["a", "b", "b", "b"]
    assert [row.output for row in rows] == [[4, 5], [4, 5], [4, 5, 8], [4, 5, 8, 9]]
    assert [row.num_output for row in rows] == [2, 2, 3, 4]
    assert {row.seed for row in rows} == {7}
    assert draft_rows([]) == []


def test_who_has_left_meanwhile_leaves_its_rows() -> None:
    a, b, c, d = (scheduled(name, draft) for name, draft in (("a", ()), ("b", (8, 9)), ("c", (6,)), ("d", ())))
    step = step_of([a, b, c, d])
    assert list(step.first_rows()) == [(a, 0), (b, 1), (c, 4), (d, 6)]
    b.sequence.gone = True
    assert list(step.first_rows()) == [(a, 0), (c, 4), (d, 6)]
    step.announce()
    assert [(s.sequence.awaited, s.sequence.in_check) for s in (a, b, c, d)] == [
        (0, False),
        (None, False),
        (None, True),
        (6, False),
    ]
    assert step.drafted == 3


@pytest.mark.parametrize(
    ("finishing", "sequences", "tokens", "decodes"),
    [
        ([scheduled("a"), scheduled("b")], 2, 2, True),
        ([scheduled("a"), scheduled("b", (8, 9))], 2, 4, True),
        ([scheduled("a")], 2, 2, False),  # a chunk of one token, of a prompt that goes on
        ([scheduled("a"), scheduled("b", count=2)], 2, 3, False),
        ([scheduled("a", (8,))], 2, 3, False),
        ([], 1, 5, False),
    ],
)
def test_a_step_of_decodes_has_a_token_of_each_and_drafts(
    finishing: list[Scheduled], sequences: int, tokens: int, decodes: bool
) -> None:
    assert step_of(finishing, sequences, tokens).only_decodes == decodes


@pytest.mark.parametrize(
    ("params", "stays"),
    [
        ({}, True),
        ({"temperature": 0.0, "logprobs": 3, "top_p": 0.5, "min_tokens": 9}, True),
        ({"repetition_penalty": 1.1}, False),
        ({"frequency_penalty": 0.1}, False),
        ({"presence_penalty": -0.1}, False),
    ],
)
def test_the_next_step_waits_for_tokens_that_a_draw_depends_on(params: dict[str, Any], stays: bool) -> None:
    assert may_stay([scheduled("a", **params)]) == stays
    assert may_stay([scheduled("a"), scheduled("b", **params)]) == stays


def test_the_next_step_waits_for_a_prompts_log_probabilities_and_not_for_an_outputs() -> None:
    scored = scheduled("a", prompt_logprobs=0)
    assert may_stay([scored]), "it has drawn: the prompt's are told"
    del scored.sequence.tokens[3:]
    assert not may_stay([scored])


def test_the_next_step_waits_where_an_eighth_or_more_has_drafts() -> None:
    plain = [scheduled(str(number)) for number in range(7)]
    assert not may_stay([*plain, scheduled("drafts", (8,))])
    assert may_stay([*plain, scheduled("plain"), scheduled("drafts", (8,))])


@pytest.mark.parametrize(("forward", "parts"), [(0.3, (0.2, 0.3, 0.5)), (0.0, (0.2, 0.0, 0.8)), (5.0, (0.2, 0.8, 0.0))])
def test_a_steps_time_is_all_of_its_call(forward: float, parts: tuple[float, float, float]) -> None:
    """What its forward pass took while the next was prepared is no time of this call."""
    timing = step_of([], 3, 40, forward).timing(seconds=1.0, schedule=0.2)
    assert (timing.sequences, timing.tokens, timing.seconds) == (3, 40, 1.0)
    assert (timing.schedule, timing.forward, timing.sample) == pytest.approx(parts)


@pytest.mark.parametrize(
    ("device", "asked", "limits"),
    [
        ("cpu", (8, None, None), StepLimits(8, BATCHED_TOKENS["cpu"], DRAFTED_ROWS["cpu"])),
        ("cuda", (8, None, 4), StepLimits(8, BATCHED_TOKENS["cuda"], DRAFTED_ROWS["cuda"])),
        ("cpu", (8, 100, 0), StepLimits(8, 100, 0)),
        ("cpu", (64, 16, 0), StepLimits(64, 64, 0)),  # each sequence has room for its next token
    ],
)
def test_limits_of_a_step(device: str, asked: tuple[int, int | None, int | None], limits: StepLimits) -> None:
    assert StepLimits.on(device, *asked) == limits


@pytest.mark.parametrize(
    ("limits", "rows"),
    [(StepLimits(8, 1000, 12, 20), 40), (StepLimits(8, 30, 12, 20), 30), (StepLimits(8, 1000, 0, 1), 9)],
)
def test_rows_of_logits_are_bounded_by_tokens_too(limits: StepLimits, rows: int) -> None:
    assert limits.logit_rows == rows
    assert limits.short_tokens == limits.tokens // 4


@pytest.mark.parametrize(("decodes", "tokens"), [(0, 256), (1, 255), (192, 64), (193, 64), (1000, 64)])
def test_prompts_have_what_is_free_and_always_something(decodes: int, tokens: int) -> None:
    assert PrefillFloor.on("cuda") == PrefillFloor(256, 64)
    assert PrefillFloor.on("cpu") == PrefillFloor(16, 16)
    assert PrefillFloor(256, 64).tokens(decodes) == tokens
