"""What one call of the engine comes to, by what was heard of it.

A prompt is paid for once, however many completions it has, and what the cache held of it is what that completion found
which found least. Each completion's tokens are paid for; those that an earlier request of the editor session had
generated cost what cached tokens cost. A request that another engine resumes is heard of as one.

What is computed and never heard of is not in it: where the client leaves, the step that the engine is in, and the next
one. Where it leaves before there is any news, nobody knows how far the engine came with the prompts, or whether it had
begun: they are paid for, and the entry is marked as estimated, as is one that a newer request of its session supersedes
before its first token. Nothing is paid for where no replica had taken the request, or where an error is all that comes:
what was computed was lost with its engine.
"""

from __future__ import annotations

import msgspec

from deployments.protocol import Delta, GenerationRequest
from deployments.stop_rules import superseded
from deployments.teams.records import LedgerEntry, Price, UsageKind


class _Completion:
    __slots__ = ("cached", "finished", "heard", "replayed", "tokens")

    def __init__(self) -> None:
        self.tokens = self.replayed = self.cached = 0
        self.heard = self.finished = False


class Meter:
    """entry: of the call, with no tokens in it."""

    def __init__(self, request: GenerationRequest, entry: LedgerEntry, price: Price) -> None:
        self._entry = entry
        self._price = price
        self._prompts = [len(prompt) for prompt in request.prompts]
        self._each = request.best_of
        self._completions = [_Completion() for _ in range(len(self._prompts) * request.best_of)]
        self._most = sum(self._prompts), len(self._completions) * request.params.max_tokens
        self._superseded = False

    @property
    def most_tokens(self) -> int:
        return sum(self._most)

    @property
    def most_cost(self) -> int:
        prompt_tokens, completion_tokens = self._most
        return self._price.cost(prompt_tokens, 0, completion_tokens)

    @property
    def finished(self) -> bool:
        return all(completion.finished for completion in self._completions)

    @property
    def heard(self) -> bool:
        """Whether there was news of any completion."""
        return any(completion.heard for completion in self._completions)

    def saw(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            completion = self._completions[delta.index]
            completion.heard = True
            completion.tokens += len(delta.token_ids)
            completion.finished = delta.finish_reason is not None
            completion.replayed += delta.replayed_tokens
            if delta.cached_tokens > completion.cached:
                completion.cached = delta.cached_tokens
            if delta.ended_by == superseded.RULE.name:
                self._superseded = True

    def asked(self) -> LedgerEntry:
        """What is owed if this process dies now."""
        return self._with(range(len(self._prompts)), "failed", self._entry.started_at, estimated=True)

    def so_far(self, now: float) -> LedgerEntry:
        """The same, later."""
        return self._with(self._heard_prompts(), "failed", now, estimated=True)

    def ended(self, now: float, kind: UsageKind | None = None) -> LedgerEntry | None:
        """What is owed; None: nothing. kind: how it was broken off, if it was."""
        if not self.heard:
            return None
        if self._superseded:
            return self._with(self._heard_prompts(), "superseded", now, estimated=not self._tokens)
        return self._with(self._heard_prompts(), "completed" if self.finished or kind is None else kind, now)

    def left_unheard(self, now: float) -> LedgerEntry:
        """What is owed where the client left a replica that had said nothing."""
        return self._with(range(len(self._prompts)), "cancelled", now, estimated=True)

    @property
    def _tokens(self) -> int:
        return sum(one.tokens for one in self._completions)

    def _heard_prompts(self) -> list[int]:
        return [number for number in range(len(self._prompts)) if any(one.heard for one in self._of(number))]

    def _of(self, prompt: int) -> list[_Completion]:
        return self._completions[prompt * self._each : (prompt + 1) * self._each]

    def _with(self, prompts: range | list[int], kind: UsageKind, now: float, estimated: bool = False) -> LedgerEntry:
        prompt_tokens = sum(self._prompts[number] for number in prompts)
        cached = sum(self._cached(number) for number in prompts)
        tokens = self._tokens
        replayed = sum(one.replayed for one in self._completions)
        return msgspec.structs.replace(
            self._entry,
            kind=kind,
            ended_at=now,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached,
            completion_tokens=tokens,
            replayed_tokens=replayed,
            cost=self._price.cost(prompt_tokens + replayed, cached + replayed, tokens - replayed),
            estimated=estimated,
        )

    def _cached(self, prompt: int) -> int:
        found = [one.cached for one in self._of(prompt) if one.heard]
        return min(min(found, default=0), self._prompts[prompt])
