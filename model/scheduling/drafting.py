"""Who speculates in the next step, and how far."""

from __future__ import annotations

from model.scheduling.sequence import Sequence


def propose_drafts(running: list[Sequence], rows: int, turn: int) -> None:
    """Propose tokens for the sequences that are decoding; never beyond where they have to end.

    rows: tokens of the step up to which drafts fill it. turn: who drafts first changes with it, since there may not
    be room for all.
    """
    decoding = [s for s in running if s.pending == 1 and s.num_output]
    room = rows - len(decoding)
    first = turn % max(1, len(decoding))
    for sequence in [*decoding[first:], *decoding[:first]]:
        if room <= 0:
            return
        if sequence.speculator is not None:
            most = min(sequence.limit - sequence.length - 1, room)
            sequence.draft = sequence.speculator.draft(sequence.tokens)[: max(0, most)]
            room -= len(sequence.draft)
