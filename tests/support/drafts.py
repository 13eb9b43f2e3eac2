"""In the place of decisions about drafts."""

from __future__ import annotations

from collections.abc import Sequence

from model.scheduling.draft_length import Candidate, DraftLength


def as_long_as_there_is_room(
    length: DraftLength, candidates: Sequence[Candidate], sequences: int, room: int
) -> list[int]:
    """For `DraftLength.share`: all draft whatever it takes, the first ones first."""
    found: list[int] = []
    for candidate in candidates:
        found.append(max(0, min(length.longest, candidate.most, room - sum(found))))
    return found
