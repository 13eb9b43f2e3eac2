"""How far a draft model drafts: as far as it pays, by what is measured."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.request import Request, SamplingParams
from model.scheduling.draft_length import AHEAD, CHANCE, TRIED, TRY_AGAIN, Candidate, Chance, DraftLength
from model.scheduling.drafting import await_tokens, propose_drafts
from model.scheduling.sequence import Sequence
from model.scheduling.speculation import BY_MODEL, Speculator


def speed(lengths: list[int], chances: list[float], sequences: int, cost: float) -> float:
    """Tokens in the time of a step without drafts, by definition (arXiv:2211.17192, theorem 3.8, for one sequence)."""
    gained = sum(chance**k for chance, n in zip(chances, lengths, strict=True) for k in range(1, n + 1))
    return (sequences + gained) / (1 + max(lengths, default=0) * cost)


def tokens(length: DraftLength, chances: list[float], sequences: int) -> int:
    """For how many the one drafts farthest, where there is room for all."""
    found = length.share([Candidate(chance, 99) for chance in chances], sequences, room=1000)
    return max(found, default=0)


def ways(candidates: list[Candidate], longest: int, room: int) -> list[list[int]]:
    """All there are to share the room."""
    every = product(*(range(min(longest, max(candidate.most, 0)) + 1) for candidate in candidates))
    return [list(lengths) for lengths in every if sum(lengths) <= room]


@given(
    st.lists(st.builds(Candidate, st.floats(0, 1), st.integers(-1, 5)), min_size=1, max_size=4),
    st.integers(0, 6),
    st.integers(0, 12),
    st.floats(0, 2),
    st.integers(1, 4),
    st.booleans(),
)
def test_no_other_drafts_that_there_is_room_for_bring_more(
    candidates: list[Candidate], others: int, room: int, cost: float, longest: int, runs_ahead: bool
) -> None:
    sequences, chances = len(candidates) + others, [candidate.chance for candidate in candidates]

    def value(lengths: list[int]) -> float:
        return speed(lengths, chances, sequences, cost) * (1 + AHEAD if runs_ahead and not any(lengths) else 1)

    chosen = DraftLength(longest, cost, runs_ahead).share(candidates, sequences, room)
    possible = ways(candidates, longest, room)
    assert chosen in possible
    assert value(chosen) == pytest.approx(max(map(value, possible)))


@pytest.mark.parametrize("cost", [0.03, 0.07, 0.2, 0.5])
@pytest.mark.parametrize(
    ("rows", "sequences"), [(64, 8), (64, 32), (64, 40), (64, 48), (64, 56), (64, 63), (12, 2), (12, 4), (12, 8)]
)
def test_where_there_is_little_room_a_step_is_never_slower_than_one_without_drafts(
    rows: int, sequences: int, cost: float
) -> None:
    running = [decoding(i, left=200) for i in range(sequences)]
    length = DraftLength(8, cost)
    propose_drafts(running, rows, turn=5, by_model=length)
    lengths = [len(s.draft) for s in running]
    chances = [CHANCE] * sequences
    fast = speed(lengths, chances, sequences, cost)
    even = [[k] * min(sequences, (rows - sequences) // k) for k in range(1, 9)]
    even = [[*each, *[0] * (sequences - len(each))] for each in even]
    assert sum(lengths) <= rows - sequences
    assert fast >= max(sequences, *(speed(each, chances, sequences, cost) for each in even)) * (1 - 1e-9)
    if any(lengths):
        assert max(lengths) - min(lengths) <= 1, "it is spread evenly"
    running = [decoding(i, awaited=i, left=200) for i in range(sequences)]
    assert await_tokens(running, rows, length) == any(lengths), "they are waited for where they are made, only there"


def test_who_drafts_where_there_is_room_for_few_changes_with_the_turn() -> None:
    running, drafted = [decoding(i, left=200) for i in range(8)], set()
    for turn in range(8):
        propose_drafts(running, 12, turn, by_model=DraftLength(8, 0.01))
        drafted |= {s.arrival for s in running if s.draft}
    assert drafted == set(range(8))


def test_passes_that_take_as_long_as_a_step_never_pay_nor_drafts_that_are_wrong() -> None:
    assert tokens(DraftLength(20, 1.0), [1.0], 1) == 0
    assert tokens(DraftLength(20, 0.2), [0.2], 1) == 0
    assert tokens(DraftLength(20, 0.2), [0.25], 1) == 1
    assert tokens(DraftLength(20, 0.0), [], 4) == 0


def test_sequences_that_only_wait_make_drafts_shorter() -> None:
    length = DraftLength(8, 0.1)
    found = [tokens(length, [0.8], sequences) for sequences in (1, 2, 4, 8)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 3
    assert found[-1] == 0


def test_where_drafts_do_not_pay_one_is_tried_now_and_then() -> None:
    length = DraftLength(8, 0.5)
    tried = 0
    for _ in range(1000):
        drafts = tokens(length, [0.1, 0.1], 2)
        assert drafts in (0, 1)
        if drafts:
            tried += 1
            length.ran(drafted=True)
        else:
            length.went_without()
    assert tried == 1000 // (TRY_AGAIN + 1)


def not_paying() -> DraftLength:
    """It is time to try a draft."""
    length = DraftLength(8, 1.0, pass_tokens=128, free_tokens=128)
    for _ in range(TRY_AGAIN):
        length.went_without()
    return length


def test_a_try_ends_whether_it_comes_to_a_draft_or_not() -> None:
    length = not_paying()
    assert length.fill == 1 / 128
    for _ in range(round(TRY_AGAIN * TRIED)):  # a pass takes a step
        assert length.share([Candidate(0.5, 100, 128)], 1, 8) == [1]
        length.ran(drafted=False)
    for _ in range(TRY_AGAIN):
        assert length.share([Candidate(0.5, 100, 128)], 1, 8) == [0]
        length.went_without()
    assert length.share([Candidate(0.5, 100, 128)], 1, 8) == [1]
    length.ran(drafted=False)
    length.went_without()  # who was tried has ended
    assert length.share([Candidate(0.5, 100)], 1, 8) == [0]


def test_it_is_tried_for_who_is_nearly_caught_up_with_and_has_enough_left() -> None:
    assert not_paying().share([Candidate(0.5, 9, 100), Candidate(0.5, 9, 3), Candidate(0.5, 0, 1)], 3, 8) == [0, 1, 0]
    assert not_paying().share([Candidate(0.5, 6, 4 * 128)], 1, 8) == [0], "it ends before"
    assert not_paying().share([Candidate(0.5, 6, 3 * 128 + 1)], 1, 8) == [0], "a pass takes a step, full or not"
    assert not_paying().share([Candidate(0.5, 6, 3 * 128)], 1, 8) == [1]
    assert not_paying().share([Candidate(0.5, 7, 4 * 128)], 1, 8) == [1]
    assert DraftLength(8, 1.0).share([Candidate(0.5, 100)], 1, 8) == [0], "it is no time for it"


def test_what_is_dear_to_try_is_tried_later() -> None:
    length, long = not_paying(), Candidate(0.5, 2000, 16 * 128)
    waited = TRY_AGAIN
    while length.share([long], 1, 8) == [0]:
        length.went_without()
        waited += 1
    assert waited == 16 / TRIED
    for lacking in range(15 * 128, 0, -128):
        length.ran(drafted=False)
        assert length.share([Candidate(0.5, 2000, lacking)], 1, 8) == [1], "it goes on"


def test_the_draft_model_catches_up_with_who_has_enough_left_to_repay_it() -> None:
    length = DraftLength(8, 0.07, pass_tokens=512, free_tokens=256)
    assert length.share([Candidate(0.7, 8, 4000)], 1, 63) == [0]
    assert length.share([Candidate(0.7, 400, 4000)], 1, 63) == [1], "it takes several steps"
    ready = length.share([Candidate(0.7, 400, 400)], 1, 63)
    assert ready == length.share([Candidate(0.7, 400, 1)], 1, 63) > [1]
    both = length.share([Candidate(0.7, 8, 4000), Candidate(0.7, 400, 2)], 2, 62)
    assert both[0] == 0 < both[1], "who repays nothing keeps nobody else from it"


def test_what_catching_up_takes_is_measured() -> None:
    length = DraftLength(8, 0.1, pass_tokens=512, free_tokens=256)
    assert length.share([Candidate(0.7, 40, 400)], 1, 63) > [1]
    for _ in range(9):
        length.learn_cost(3, seconds=0.003, step_seconds=0.01)
    assert length.share([Candidate(0.7, 40, 400)], 1, 63) > [0]
    for _ in range(9):
        length.learn_cost(0, seconds=4.0, step_seconds=0.01, caught_up=400)
    assert length.cost == pytest.approx(0.1), "of its own"
    assert length.fill == pytest.approx(1.0)
    assert length.share([Candidate(0.7, 40, 400)], 1, 63) == [0]
    assert length.seconds(3) == pytest.approx(0.003)
    assert length.seconds(0, 40) == pytest.approx(0.4)
    assert length.seconds(0, 5000) == length.seconds(0, 512), "of one pass"
    for _ in range(9):  # beside a pass that draws
        length.learn_cost(1, seconds=0.001 + 0.02, step_seconds=0.01, caught_up=200)
    assert length.fill == pytest.approx(0.01)


def test_the_cost_of_a_pass_is_measured() -> None:
    length = DraftLength(8, 0.0)
    assert tokens(length, [0.7], 1) == 8
    for _ in range(3):
        length.learn_cost(4, seconds=0.08, step_seconds=0.02)
    assert length.cost == pytest.approx(1.0), "measurements are worth more than what was thought"
    assert tokens(length, [0.7], 1) == 0
    for _ in range(9):
        length.learn_cost(2, seconds=0.004, step_seconds=0.02)
    assert length.cost == pytest.approx(0.1)
    length.learn_cost(2, seconds=0.004, step_seconds=0.0)
    assert length.cost == pytest.approx(0.1)


def test_a_pass_that_was_held_up_says_little_of_the_next() -> None:
    length = DraftLength(8, 0.07)
    for _ in range(9):
        length.learn_cost(4, seconds=0.0112, step_seconds=0.04)
    before = tokens(length, [0.8], 1)
    length.learn_cost(4, seconds=1.2, step_seconds=0.04)
    assert tokens(length, [0.8], 1) == before > 1
    first = DraftLength(8, 0.07)  # of all it is the first
    first.learn_cost(4, seconds=1.2, step_seconds=0.04)
    assert tokens(first, [0.8], 1) == before


def test_after_memory_was_too_little_there_are_no_drafts_for_longer_and_longer() -> None:
    length, waited = DraftLength(8, 0.01), []
    first = [length.rest() for _ in range(1)]
    for _ in range(3):
        steps = 0
        while not tokens(length, [0.9], 1):
            length.went_without()
            steps += 1
        waited.append(steps)
        first.append(length.rest())
    assert waited == [TRY_AGAIN, 2 * TRY_AGAIN, 4 * TRY_AGAIN]
    assert first == [True, False, False, False]
    length.ran(drafted=True)
    assert length.rest(), "it was enough in between"


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
    one.drafted = one.length - 1
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


def test_the_draft_model_catches_up_with_those_who_lack_least() -> None:
    length = DraftLength(4, 0.01, pass_tokens=100)
    candidates = [Candidate(0.9, 99, lacking) for lacking in (90, 30, 2, 69, 68)]
    assert length._ready(candidates, [0, 1, 2, 3, 4]) == [1, 2, 4], "100 of 100 tokens"
    assert length._ready(candidates, [0, 1, 3]) == [1, 3]
    assert length._ready(candidates, [0, 3]) == [3]
