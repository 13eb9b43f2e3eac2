"""How far a draft model drafts: as far as it pays, by what is measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.request import Request, SamplingParams
from model.scheduling.draft_length import AHEAD, TRY_AGAIN, Chance, DraftLength
from model.scheduling.drafting import await_tokens, propose_drafts
from model.scheduling.sequence import Sequence
from model.scheduling.speculation import BY_MODEL, Speculator


def speed(length: int, chances: list[float], sequences: int, cost: float) -> float:
    """Tokens in the time of a step without drafts, by definition (arXiv:2211.17192, theorem 3.8, for one sequence)."""
    gained = sum(chance**k for chance in chances for k in range(1, length + 1))
    return (sequences + gained) / (1 + length * cost)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6),
    st.integers(0, 6),
    st.floats(0, 2),
    st.integers(1, 8),
    st.booleans(),
)
def test_no_other_length_brings_more(
    chances: list[float], others: int, cost: float, longest: int, runs_ahead: bool
) -> None:
    sequences = len(chances) + others
    chosen = DraftLength(longest, cost, runs_ahead).tokens(chances, sequences)
    speeds = [speed(k, chances, sequences, cost) for k in range(longest + 1)]
    if runs_ahead:
        speeds[0] *= 1 + AHEAD
    assert speeds[chosen] == pytest.approx(max(speeds))


def test_passes_that_take_as_long_as_a_step_never_pay_nor_drafts_that_are_wrong() -> None:
    assert DraftLength(20, 1.0).tokens([1.0], 1) == 0
    assert DraftLength(20, 0.2).tokens([0.2], 1) == 0
    assert DraftLength(20, 0.2).tokens([0.25], 1) == 1
    assert DraftLength(20, 0.0).tokens([], 4) == 0


def test_sequences_that_only_wait_make_drafts_shorter() -> None:
    length = DraftLength(8, 0.1)
    found = [length.tokens([0.8], sequences) for sequences in (1, 2, 4, 8)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 3
    assert found[-1] == 0


def test_where_drafts_do_not_pay_one_is_tried_now_and_then() -> None:
    length = DraftLength(8, 0.5)
    tried = 0
    for _ in range(1000):
        drafts = length.tokens([0.1], 1)
        assert drafts in (0, 1)
        if drafts:
            tried += 1
            length.learn(1, 0)
        else:
            length.went_without()
    assert tried == 1000 // (TRY_AGAIN + 1)


def test_the_cost_of_a_pass_is_measured() -> None:
    length = DraftLength(8, 0.0)
    assert length.tokens([0.7], 1) == 8
    length.learn_cost(4, seconds=0.08, step_seconds=0.02)
    assert length.cost == pytest.approx(1.0), "the first measurement is worth more than what was thought"
    assert length.tokens([0.7], 1) == 0
    for _ in range(100):
        length.learn_cost(2, seconds=0.004, step_seconds=0.02)
    assert length.cost == pytest.approx(0.1, abs=0.01)
    length.learn_cost(2, seconds=0.004, step_seconds=0.0)
    assert length.cost == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("right", [0.1, 0.5, 0.9])
def test_how_often_drafts_are_right_is_learnt_of_a_sequence_and_of_all(right: float) -> None:
    random = np.random.default_rng(0)
    length, chance, seen = DraftLength(4, 0.1), Chance(), []
    for step in range(400):
        hits = random.random(4) < right
        accepted = 4 if hits.all() else int(np.argmin(hits))
        chance.learn(4, accepted)
        length.learn(4, accepted)
        if step >= 50:
            seen.append((chance.value, length.chance))
    assert np.mean(seen, axis=0) == pytest.approx([right, right], abs=0.12)


def test_a_new_sequence_begins_where_the_others_are() -> None:
    length = DraftLength(4, 0.1)
    for _ in range(50):
        length.learn(4, 0)
    assert Chance(length.chance).value < 0.05
    chance = Chance(0.9)
    chance.learn(4, 0)
    assert 0.5 < chance.value < 0.9, "one that is wrong is no verdict"


def decoding(number: int, awaited: int | None = None, left: int = 20) -> Sequence:
    request = Request(str(number), list(range(10)), SamplingParams(max_tokens=left + 1))
    one = Sequence(request, seed=0, arrival=number, limit=11 + left, speculator=Speculator(4))
    one.tokens.append(99)
    one.awaited = awaited
    one.computed = one.length - 1
    return one


def test_places_go_to_the_model_where_nothing_is_found_and_never_beyond_the_end() -> None:
    running = [decoding(0), decoding(1, left=2), decoding(2, left=1), decoding(3)]
    running[3].tokens[5:7] = running[3].tokens[8:10] = [7, 7]
    running[3].tokens[-1] = 7
    length = DraftLength(4, 0.01)
    propose_drafts(running, rows=64, turn=0, by_model=length)
    assert [s.draft for s in running[:3]] == [[BY_MODEL] * 4, [BY_MODEL], []]
    assert running[3].draft
    assert BY_MODEL not in running[3].draft
    for one in running:
        one.draft = []
    propose_drafts(running, rows=7, turn=0, by_model=length)
    assert sum(len(s.draft) for s in running) == 3
    propose_drafts(running[:3], rows=64, turn=0)
    assert [s.draft for s in running[:3]] == [[], [], []]


def test_nothing_is_proposed_while_a_token_is_awaited_but_it_is_read_first_where_drafts_pay() -> None:
    running = [decoding(0, awaited=0), decoding(1, awaited=1)]
    pays, does_not = DraftLength(4, 0.01), DraftLength(4, 5.0)
    propose_drafts(running, rows=64, turn=0, by_model=pays)
    assert [s.draft for s in running] == [[], []]
    assert await_tokens(running, 64, pays)
    assert not await_tokens(running, 64)
    assert not await_tokens(running, 2, pays), "no room for drafts"
    for _ in range(TRY_AGAIN):
        assert not await_tokens(running, 64, does_not)
        propose_drafts(running, rows=64, turn=0, by_model=does_not)
    assert await_tokens(running, 64, does_not), "it is time to try one again"
