"""What is rounding and what is a fault, and which texts are to be read for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deployments.command.verify.cases import Case, Prompt
from deployments.command.verify.judging import CaseVerdict, Error, Judgement, Texts, judge
from deployments.command.verify.movement import moved
from deployments.command.verify.readings import CaseRun, Read, Reading, Role, Text, Written

ROUNDING = 0.01
"""Of transformers in the served type, at every token."""


def written(prompt: tuple[int, ...], output: tuple[int, ...], first: int | None = None) -> Written:
    first = len(prompt) if first is None else first
    count = len(prompt) + len(output) - first
    return Written(
        Prompt("a prompt", prompt),
        output,
        first,
        np.zeros(count, np.float32),
        np.zeros((count, 1), np.int32),
        np.zeros((count, 1), np.float32),
    )


def run_of(*several: Written) -> CaseRun:
    return CaseRun(Case("a case", tuple(w.prompt for w in several)), several)


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 2), min_size=1, max_size=4), st.lists(st.integers(0, 2), min_size=1, max_size=4)
        ),
        min_size=1,
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_every_token_is_read_in_a_text_that_begins_as_its_own(pairs: list, random: object) -> None:  # type: ignore[type-arg]
    several = [
        written(tuple(prompt), tuple(output), random.randint(1, len(prompt)))  # type: ignore[attr-defined]
        for prompt, output in pairs
    ]
    texts = Texts([run_of(*several)])
    for one in several:
        number, rows = texts.rows(one)
        text = texts.texts[number]
        assert text.tokens[: len(one.tokens)] == one.tokens
        assert text.tokens[text.first :][rows] == one.tokens[one.first :]
    wholes = [text.tokens for text in texts.texts]
    assert len(wholes) == len(set(wholes)) <= len(several)
    assert not any(a != b and b[: len(a)] == a for a in wholes for b in wholes), "read with another one"


EXACT = np.log(np.array([[0.5, 0.3, 0.2], [0.4, 0.39, 0.21]]))
"""Of the tokens 7, 8 and 9 at two positions."""


def verdict(error: float = 0.0, output: tuple[int, int] = (7, 7), **changes: object) -> CaseVerdict:
    """The verdict on the only case."""
    return judgement(error, output, **changes).cases[0]


def judgement(error: float = 0.0, output: tuple[int, int] = (7, 7), **changes: object) -> Judgement:
    """Of an engine that is off by `error` from the truth and writes two tokens."""
    own = np.array([EXACT[row, token - 7] for row, token in enumerate(output)])
    ids = np.tile(np.array([[7, 8, 9]], np.int32), (2, 1))
    reading = Reading(Text((1, *output), 1), ids, passes(own))
    ours = Written(Prompt("a prompt", (1,)), output, 1, own + error, ids, EXACT + error)
    run = replace(run_of(replace(ours, **changes)))  # type: ignore[arg-type]
    return judge([run], Texts([run]), [reading])


def passes(own: np.ndarray) -> dict[Role, Read]:
    return {
        "exact": Read(own, EXACT, np.array([7, 7])),
        "served": Read(own + ROUNDING, EXACT + ROUNDING * np.array([1, -1, 1]), np.array([7, 7])),
    }


def test_what_transformers_loses_too_is_rounding() -> None:
    assert judgement(1.4 * ROUNDING).faults == []


def test_all_cases_together_are_held_to_less_than_each() -> None:
    found = judgement(1.6 * ROUNDING)
    assert found.cases[0].faults == []
    assert found.faults == ["all cases: off by 0.016 nats, root mean square, where 0.015 may be rounding"]


@pytest.mark.parametrize("error", [2.1 * ROUNDING, -5 * ROUNDING, float("nan"), float("inf")])
def test_more_is_a_fault(error: float) -> None:
    found = verdict(error)
    assert found.faults
    assert found.engine.largest > 2 * ROUNDING


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["own", "logprobs"])
@pytest.mark.parametrize("role", ["exact", "served", "unquantized"])
def test_what_is_no_number_is_no_yardstick(role: Role, where: str, number: float) -> None:
    """By an error of transformers that is infinite, any engine would be as good as transformers."""
    one = written((1,), (7, 7))
    reads = passes(EXACT[:, 0])
    read = reads.get(role, reads["exact"])
    values = getattr(read, where).copy()
    values.flat[-1] = number
    reads[role] = replace(read, **{where: values})
    run = run_of(one)
    with pytest.raises(RuntimeError, match=r"transformers' own .* at 1 of 2 positions"):
        judge([run], Texts([run]), [Reading(Text((1, 7, 7), 1), np.tile(np.int32([7, 8, 9]), (2, 1)), reads)])


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_number_of_the_engine_that_nothing_is_compared_with_is_to_be_one(number: float) -> None:
    """Of a token that the exact reading does not ask for."""
    ids = np.tile(np.array([[7, 8, 9, 3]], np.int32), (2, 1))
    found = verdict(ids=ids, logprobs=np.column_stack([EXACT, np.array([-9.0, number])]))
    assert "a prompt: 1 of the engine's log-probabilities are no finite numbers" in found.faults


def test_one_position_among_many_is_found_and_named() -> None:
    own = np.array([EXACT[0, 0], EXACT[1, 0] + 5 * ROUNDING])
    (fault, *_) = [f for f in verdict(own=own).faults if "a likely token" in f]
    assert fault == "a prompt: a likely token is off by 0.05 nats, where 0.04 may be rounding; first at token 2"


def test_a_token_that_the_engine_does_not_name_is_less_likely_than_those_it_names() -> None:
    named = {"ids": np.array([[7], [7]], np.int32), "logprobs": EXACT[:, :1]}
    assert verdict(**named).faults == []
    # the second is nearly as likely as the first by the truth, and cannot be if the first alone has 1 in 10
    unlikely = {"ids": named["ids"], "logprobs": np.log([[0.1], [0.1]]), "own": np.log([0.1, 0.1])}
    assert any("a likely token" in fault for fault in verdict(**unlikely).faults)


def test_continuations_part_at_near_ties_alone() -> None:
    near = judgement(output=(7, 8), logprobs=np.tile(EXACT[1, 1], (2, 3)))
    assert near.tie == pytest.approx(4 * ROUNDING, abs=1e-3)
    assert (near.cases[0].parted, near.cases[0].continuations) == (1, 1)
    assert [fault for fault in near.faults if "instead of" in fault] == []
    far = verdict(output=(8, 7), logprobs=np.tile(EXACT[0, 1], (2, 3)))
    assert [fault for fault in far.faults if "instead of" in fault] == [
        "a prompt: token 1 is 8 instead of 7, which is likelier by 0.51 nats, where 0.04 may be rounding"
    ]


def test_an_unlikely_token_may_be_further_off_than_a_likely_one() -> None:
    """Its logarithm is moved far by little."""
    sizes = np.array([[1.0, 5.0]])
    assert Error.of(sizes, np.array([[True, False]])).largest == 1.0
    assert Error.of(sizes, np.array([[False, False]])).largest == 0.0
    assert Error.of(sizes, np.array([[False, False]])).rms == pytest.approx(13**0.5)


def test_who_does_not_write_what_it_finds_likeliest_is_found() -> None:
    found = verdict(output=(8, 7))
    assert "a prompt: 1 tokens are not the likeliest by the engine's own account" in found.faults


def test_a_sequence_that_was_given_up_is_a_fault() -> None:
    found = verdict(failure="not_finite")
    assert found.faults == ["a prompt: the engine gave up (not_finite)"]


def test_what_was_not_come_to_is_said() -> None:
    run = CaseRun(Case("speculation"), (), ("no draft was wrong",))
    assert judge([run], Texts([run]), []).cases[0].note == "no draft was wrong"
    left_out = CaseRun(Case("speculation", why_not="it is switched off"))
    assert judge([left_out], Texts([left_out]), []).cases[0].note == "not tried: it is switched off"
    lost = CaseRun(Case("speculation"), broken="two hold a block")
    assert judge([lost], Texts([lost]), []).faults == [
        "speculation: the engine lost track of its cache: two hold a block"
    ]


def test_how_far_weights_moved_is_the_divergence_of_pytorch() -> None:
    generator = torch.Generator().manual_seed(1)
    plain, rounded = torch.randn(2, 5, 9, generator=generator).double().log_softmax(-1)
    tokens = (1, 3, 0, 4, 8, 2)
    targets = torch.tensor(tokens[1:])[:, None]
    ids = np.tile(np.arange(9, dtype=np.int32), (5, 1))
    passes = {
        role: Read(values.gather(1, targets)[:, 0].numpy(), values.numpy(), values.argmax(-1).numpy())
        for role, values in (("exact", rounded), ("served", rounded), ("unquantized", plain))
    }
    one = written((1, 3, 0, 4, 8), (2,), first=1)
    run = CaseRun(Case("read", whole=True), (one,))
    found = moved([run], Texts([run]), [Reading(Text(tokens, 1), ids, passes)])  # type: ignore[arg-type]
    assert found is not None
    divergence = torch.nn.functional.kl_div(rounded, plain, log_target=True, reduction="none").sum(-1)
    assert found.divergence == pytest.approx(float(divergence.mean()))
    assert found.largest == pytest.approx(float(divergence.max()))
    assert found.same == float((plain.argmax(-1) == rounded.argmax(-1)).double().mean())
    assert found.perplexity == pytest.approx(float((-rounded.gather(1, targets).mean()).exp()))
