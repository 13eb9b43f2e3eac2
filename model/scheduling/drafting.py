"""Who speculates in the next step, and how far."""

from __future__ import annotations

from model.scheduling.draft_length import CAUGHT_UP, Candidate, DraftLength
from model.scheduling.sequence import Scheduled, Sequence
from model.scheduling.speculation import BY_MODEL

MOST_DRAFTS = 1 / 8
"""Share of a step's sequences with drafts from which on a step is not prepared while the one before runs.

That saves about an eighth of a step's time. But it costs those who have drafts: they are in every other step only, or
draft without the last token.
"""


def are_many(drafts: int, sequences: int) -> bool:
    """Whether so many of a step's sequences have drafts that tokens are read before the next one is prepared."""
    return drafts > 0 and drafts >= MOST_DRAFTS * sequences


def await_tokens(running: list[Sequence], rows: int, by_model: DraftLength | None = None) -> bool:
    """Whether many that await a token are likely to draft once it is there, in a step with room up to `rows`."""
    decoding = _decoding(running)
    if len(decoding) >= rows:
        return False
    awaiting = [s for s in decoding if s.awaited is not None and s.speculator is not None and _most(s) > 0]
    promising = [s for s in awaiting if s.speculator is not None and s.speculator.promises(s.tokens)]
    if are_many(len(promising), len(decoding)):
        return True
    if by_model is None or not awaiting:
        return False
    # as `propose_drafts` will reckon, but for what is looked up then: of that a token each is expected
    looked_up = set(promising)
    without = [s for s in decoding if s.speculator is not None and _most(s) > 0 and s not in looked_up]
    return any(by_model.share(_candidates(without), len(decoding), rows - len(decoding) - len(promising)))


def propose_drafts(running: list[Sequence], rows: int, turn: int, by_model: DraftLength | None = None) -> None:
    """Propose tokens for the sequences that are decoding; never beyond where they have to end.

    Where a step still draws a sequence's last token, its draft is made without it.

    rows: tokens of the step up to which drafts fill it. turn: who drafts first changes with it, since there may not
    be room for all. by_model: who finds nothing to look up proposes tokens `BY_MODEL`, as many as are worth it of those
    that there is room for; None: there is no draft model.
    """
    decoding = _decoding(running)
    for sequence in decoding:
        sequence.draft = []
    room = rows - len(decoding)
    first = turn % max(1, len(decoding))
    without: list[Sequence] = []
    for sequence in [*decoding[first:], *decoding[:first]]:
        if room <= 0:
            return
        most = min(_most(sequence), room)
        if sequence.speculator is not None and most > 0:
            awaited = int(sequence.awaited is not None)
            sequence.draft = sequence.speculator.draft(sequence.tokens, awaited)[:most]
            room -= len(sequence.draft)
            if not sequence.draft:
                without.append(sequence)
    if by_model is not None and without:
        _propose_by_model(without, room, by_model, len(decoding))


def _propose_by_model(without: list[Sequence], room: int, by_model: DraftLength, sequences: int) -> None:
    """Nothing where a token is awaited: the model would have to wait for the step that draws it."""
    awaited = any(sequence.awaited is not None for sequence in without)
    lengths = [0] * len(without) if awaited else by_model.share(_candidates(without), sequences, room)
    if not any(lengths):
        by_model.went_without()
    for sequence, length in zip(without, lengths, strict=True):
        sequence.draft = [BY_MODEL] * length


def _candidates(sequences: list[Sequence]) -> list[Candidate]:
    return [
        Candidate(s.speculator.chance.value, _most(s), s.length - s.drafted)
        for s in sequences
        if s.speculator is not None
    ]


def expected_passes(running: list[Sequence]) -> tuple[int, int]:
    """For what is proposed: passes of the draft model, and how many tokens it has to catch up with."""
    by_model = [s for s in running if s.draft and s.draft[0] == BY_MODEL]
    lacking = [s.length - s.drafted for s in by_model]
    return max((len(s.draft) for s in by_model), default=0), sum(n for n in lacking if n > CAUGHT_UP)


def prepare_drafts(plan: list[Scheduled]) -> None:
    """Look through the tokens of those that may draft some day, ahead of their first draft."""
    for sequence in (scheduled.sequence for scheduled in plan):
        if sequence.speculator is not None and _most(sequence) > 0:
            sequence.speculator.prepare(sequence.tokens)


def _decoding(running: list[Sequence]) -> list[Sequence]:
    return [s for s in running if s.pending == 1 and s.num_output]


def _most(sequence: Sequence) -> int:
    """The longest draft that does not reach beyond the sequence's end; it may be negative."""
    return sequence.limit - sequence.length - 1
