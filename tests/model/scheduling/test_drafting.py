"""Who drafts in a step where there is not room for all, and how far."""

from __future__ import annotations

import itertools

import pytest

from model.request import Request, SamplingParams
from model.scheduling.drafting import MOST_DRAFTS, are_many, expected_passes, propose_drafts
from model.scheduling.sequence import Sequence
from model.scheduling.speculation import BY_MODEL, Speculator
from tests.support.toy_engine import toy_engine

LONGEST = 4


def decoding(number: int = 0, left: int = 20, drafts: bool = True) -> Sequence:
    """A sequence that repeats itself, of which the last token is to be computed. left: tokens until it has to end."""
    one = Request(str(number), [1, 2, 3] * 4, SamplingParams(max_tokens=30))
    speculator = Speculator(LONGEST) if drafts else None
    sequence = Sequence(one, seed=0, arrival=number, limit=13 + left, speculator=speculator)
    sequence.tokens.append(1)
    sequence.computed = 12
    if speculator is not None:
        speculator.learn(2, 2)
    return sequence


@pytest.mark.parametrize("sequences", [1, 2, 3, 5])
def test_everybody_drafts_first_in_turn(sequences: int) -> None:
    """With room for one: else the others would never draft while that one lives."""
    running = [decoding(number) for number in range(sequences)]
    first = []
    for turn in range(2 * sequences):
        propose_drafts(running, sequences + LONGEST, turn)
        (drafting,) = [s for s in running if s.draft]
        assert len(drafting.draft) == LONGEST
        first.append(drafting.arrival)
        drafting.draft = []
    assert first == list(range(sequences)) * 2


def test_with_room_for_some_they_are_the_next_in_turn() -> None:
    running = [decoding(number) for number in range(4)]
    propose_drafts(running, 4 + LONGEST + 1, turn=3)
    assert [len(s.draft) for s in running] == [1, 0, 0, LONGEST]


def test_turns_are_steps() -> None:
    """Three that could draft all the time, and room for one draft of them: each is first as often as the others."""
    engine = toy_engine(num_blocks=64, speculative_tokens=LONGEST)
    for number in range(3):
        one = Request(str(number), [number + 1] * 8, SamplingParams(max_tokens=40, temperature=0, ignore_eos=True))
        engine.add(one)
    engine.step()
    for sequence in engine.sequences.values():
        lookup = sequence.speculator
        assert lookup is not None
        lookup.draft = lambda tokens, awaited=0: [49] * 12  # type: ignore[method-assign]
    drafted, schedule = [], engine.scheduler.schedule

    def noting():  # type: ignore[no-untyped-def]
        drafted.append([s.arrival for s in engine.scheduler.running if s.draft])
        return schedule()

    engine.scheduler.schedule = noting  # type: ignore[method-assign]
    for _ in range(6):
        engine.step()
    assert sorted(drafted) == [[0], [0], [1], [1], [2], [2]]
    assert all(one != other for one, other in itertools.pairwise(drafted))


@pytest.mark.parametrize(("left", "drafted"), [(1, 0), (2, 1), (4, 3), (5, 4), (9, 4)])
def test_no_draft_reaches_beyond_the_end(left: int, drafted: int) -> None:
    """The token that is drawn behind it is one of those that are left."""
    sequence = decoding(left=left)
    propose_drafts([sequence], rows=12, turn=0)
    assert sequence.draft == [2, 3, 1, 2][:drafted]


def test_those_that_do_not_decode_or_do_not_speculate_have_no_draft() -> None:
    prefilling, plain, new = decoding(0), decoding(1, drafts=False), decoding(2)
    prefilling.computed -= 1
    new.tokens.pop()  # the last token of its prompt is its first step's last
    new.computed = 11
    propose_drafts([prefilling, plain, new], rows=12, turn=0)
    assert [s.draft for s in (prefilling, plain, new)] == [[], [], []]


def test_a_draft_behind_an_awaited_token_begins_after_it() -> None:
    sequence = decoding()
    sequence.awaited, sequence.computed = 0, 13
    propose_drafts([sequence], rows=12, turn=0)
    assert sequence.draft == [3, 1, 2, 3]


def test_an_eighth_is_many() -> None:
    assert MOST_DRAFTS == 1 / 8
    assert not are_many(0, 0)
    assert not are_many(0, 8)
    assert are_many(1, 8)
    assert not are_many(1, 9)
    assert are_many(1, 1)


def test_what_a_draft_model_has_to_catch_up_with_is_told() -> None:
    """The last two tokens it reads anyway."""
    running = [decoding(number) for number in range(4)]
    for sequence, lacking, tokens in zip(running, (2, 3, 9, 50), (2, 1, 3, 0), strict=True):
        sequence.drafted = sequence.length - lacking
        sequence.draft = [BY_MODEL] * tokens
    assert expected_passes(running) == (3, 3 + 9)
    running[2].draft = [7, 7, 7, 7]
    assert expected_passes(running) == (2, 3), "found in the text"
    assert expected_passes([]) == (0, 0)
