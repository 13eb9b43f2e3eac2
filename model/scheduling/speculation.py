"""Speculation by prompt lookup: what followed the last few tokens before, follows again.

Code repeats itself, and an edit repeats the file around it, so the sequence itself is a good draft model (Saxena:
Prompt Lookup Decoding, 2023). A draft is checked in one step with the token it follows. Since each position's draw is
a function of its context, seed and position alone, keeping the drafted tokens that equal the drawn ones gives exactly
the output without speculation, greedy or sampled. `drafting` says who drafts in a step, `acceptance` what is kept.

A second, small model can draft where nothing is found (`model.drafter`, `draft_length`). The rule is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from model.scheduling.draft_length import Chance

LONGEST_MATCH = 4
SHORTEST_MATCH = 2
LONGEST_PAUSE = 64
BY_MODEL = -1
"""In a draft: a token that the draft model has still to draw, once the step has a place for it."""


class PromptLookup:
    """Finds the latest earlier occurrence of a sequence's last tokens. Linear over a sequence's life."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def draft(self, tokens: Sequence[int], length: int) -> list[int]:
        """At most `length` tokens that followed the longest match; empty where there is none."""
        self.index(tokens)
        for size in range(LONGEST_MATCH, SHORTEST_MATCH - 1, -1):
            start = self._after.get(tuple(tokens[-size:]))
            if start is not None:
                found: list[int] = []
                for position in range(start, start + length):  # a match next to the end repeats the draft itself
                    found.append(tokens[position] if position < len(tokens) else found[position - len(tokens)])
                return found
        return []

    def index(self, tokens: Sequence[int]) -> None:
        """Note every n-gram that something follows; the last tokens wait until something does."""
        for end in range(max(self._indexed, 1), len(tokens)):
            for size in range(SHORTEST_MATCH, min(LONGEST_MATCH, end) + 1):
                self._after[tuple(tokens[end - size : end])] = end
        self._indexed = max(self._indexed, len(tokens))


class Speculator:
    """One sequence's drafts: longer while they are right, paused for longer and longer while they are wrong.

    chance: that what a draft model drafts for it is right.
    """

    def __init__(self, longest: int, chance: Chance | None = None) -> None:
        self.longest = longest
        self.chance = chance or Chance()
        self._lookup = PromptLookup()
        self._length = min(2, longest)
        self._pause = 0
        self._skip = 0

    def draft(self, tokens: Sequence[int], awaited: int = 0) -> list[int]:
        """What may follow `tokens` and `awaited` more, 0 or 1, that are not known yet: these are guessed as well.

        A draft behind a wrong guess is wrong, and is learnt from as any other.
        """
        if self._skip:
            self._skip -= 1
            return []
        return self._lookup.draft(tokens, awaited + self._length)[awaited:]

    def prepare(self, tokens: Sequence[int]) -> None:
        """Look through `tokens` beforehand. It takes 20 ms for 8,000, and a draft then some microseconds."""
        self._lookup.index(tokens)

    def promises(self, tokens: Sequence[int]) -> bool:
        """Whether there is likely to be a draft when the token after `tokens` is known."""
        return not self._skip and bool(self._lookup.draft(tokens, 1))

    def learn(self, drafted: int, accepted: int) -> None:
        """Take note of how a draft that was run came out."""
        if not drafted:
            return
        if accepted:
            self._pause = 0
            self._length = min(self.longest, 2 * self._length if accepted == drafted else accepted + 1)
        else:
            self._pause = min(LONGEST_PAUSE, max(1, 2 * self._pause))
            self._skip, self._length = self._pause, min(2, self.longest)
