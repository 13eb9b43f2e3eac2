"""Editor sessions of one replica: a newer request ends the older one, and inherits what it generated.

Sessions of different cache roots never meet, whatever they are called: they may not tell what is in another's cache.
The router sends a session's requests to one replica (`deployments.cluster.routing`), so no state is shared. Where that
replica is much busier than others they may part: then both requests are answered, and nothing is inherited.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from deployments.protocol import EditorSession, GenerationRequest
from deployments.replica.remembered import Remembered
from model.request import Output, Request
from model.text.detokenizer import Detokenizer
from model.text.tokenizer import Tokenizer

SessionKey = tuple[str, str]
"""Cache root, and the session's own."""

CAPACITY = 1024
LIFETIME_S = 300.0
_COMPARED_CHARACTERS = 16_384
"""Of the text before the cursor, what has to be the same for typed-ahead reuse, beside its length."""


@dataclass
class Generation:
    """What the engine said after one prompt, possibly for several requests one after the other.

    like: everything that has to be the same in a request that goes on with it. prefix_length, prefix_digest: of the
    text before the cursor. room: tokens known to fit the window. finish: the output with which the model ended it, if
    it did.
    """

    like: object
    prefix_length: int
    compared: int
    prefix_digest: bytes
    prompt_ids: array[int]
    room: int
    token_ids: array[int] = field(default_factory=lambda: array("I"))
    logprobs: array[float] = field(default_factory=lambda: array("f"))
    finish: Output | None = None

    @classmethod
    def of(cls, request: GenerationRequest, session: EditorSession) -> Generation:
        compared = min(len(session.prefix), _COMPARED_CHARACTERS)
        prompt = request.prompts[0]
        generation = cls(
            like=_alike(request, session),
            prefix_length=session.prefix_length,
            compared=compared,
            prefix_digest=_digest(session.prefix[len(session.prefix) - compared :]),
            prompt_ids=array("I", prompt),
            room=len(prompt) + request.params.max_tokens,
        )
        for earlier in request.earlier:
            generation.token_ids.extend(earlier.token_ids)
            generation.logprobs.extend(earlier.logprobs)
        return generation

    def add(self, output: Output) -> None:
        ids = output.token_ids if output.stop_token_id is None else output.token_ids[:-1]
        self.token_ids.extend(ids)
        self.logprobs.extend([entry.logprob for entry in (output.logprobs or ())[: len(ids)]])
        if output.finish_reason == "stop":
            self.finish = Output(output.request_id, finish_reason="stop", stop_token_id=output.stop_token_id)

    def typed(self, request: GenerationRequest, session: EditorSession, tokenizer: Tokenizer) -> int | None:
        """How many characters of this the user has typed; None where the request does not go on with it.

        Something must be left of it, or the request runs as any other.
        """
        typed = session.prefix_length - self.prefix_length
        start = len(session.prefix) - typed
        if typed < 0 or start < self.compared or _alike(request, session) != self.like:
            return None
        if _digest(session.prefix[start - self.compared : start]) != self.prefix_digest:
            return None
        text = Detokenizer(tokenizer, request.skip_special).push(self.token_ids)
        return typed if len(text) > typed and text.startswith(session.prefix[start:]) else None

    def continuation(self, request: Request, left: int) -> Request:
        """The engine request that goes on with this for `left` more tokens."""
        prompt = [*self.prompt_ids, *self.token_ids]
        return msgspec.structs.replace(
            request, prompt_ids=prompt, params=msgspec.structs.replace(request.params, max_tokens=left)
        )


@dataclass(eq=False)
class Turn:
    """One request of a session, from its arrival to its end. asked_at: of the request. key: of the session.

    generation: what it adds to; None where nothing is kept. typed: characters of it that are in the prompt already;
    None where it starts anew. generated: tokens that the engine made for this request; wasted: those of them that
    nobody will use, once it is superseded.
    """

    generation: Generation | None = None
    typed: int | None = None
    asked_at: float = 0.0
    key: SessionKey | None = None
    generated: int = 0
    wasted: int = 0
    ended: bool = False
    end: Callable[[], None] | None = None
    """Ends the request; set by who runs it."""

    def add(self, output: Output) -> None:
        self.generated += len(output.token_ids)
        if self.generation is not None:
            self.generation.add(output)


class Sessions:
    """The newest turn of each session, for `lifetime_s`; where there are too many, see `Remembered`."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        capacity: int = CAPACITY,
        lifetime_s: float = LIFETIME_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokenizer = tokenizer
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._turns: Remembered[tuple[Turn, float]] = Remembered(capacity)

    def __len__(self) -> int:
        return len(self._turns)

    @contextmanager
    def turn(self, request: GenerationRequest) -> Iterator[Turn]:
        """The request's turn for the length of the block. One that is open in its session ends at once."""
        session = request.session
        if session is None:
            yield Turn()
            return
        turn = self._begin(request, session)
        try:
            yield turn
        finally:
            turn.ended, turn.end = True, None

    def _begin(self, request: GenerationRequest, session: EditorSession) -> Turn:
        now = self._clock()
        self._forget(now)
        key = request.cache_root, session.key
        older, _ = self._turns.get(request.tenant, key) or (None, now)
        if request.attempt and older is not None and older.asked_at > request.asked_at:
            # It comes from a dead engine, and meanwhile the user has typed on.
            return Turn(ended=True)
        turn = self._successor(older, request, session)
        turn.asked_at, turn.key = request.asked_at, key
        if older is not None and not older.ended:
            inherited = turn.generation is not None and turn.generation is older.generation
            older.ended, older.wasted = True, 0 if inherited else older.generated
            if older.end is not None:
                older.end()
        self._turns.use(request.tenant, key, (turn, now))
        return turn

    def _successor(self, older: Turn | None, request: GenerationRequest, session: EditorSession) -> Turn:
        if not _inherits(request) or any(earlier.taken_over for earlier in request.earlier):
            return Turn()
        if request.earlier:
            return Turn(Generation.of(request, session))
        known = older.generation if older is not None else None
        if known is not None and (typed := known.typed(request, session, self._tokenizer)) is not None:
            known.room = max(known.room, len(request.prompts[0]) + request.params.max_tokens)
            if len(known.prompt_ids) + len(known.token_ids) < known.room:
                return Turn(known, typed)
        return Turn(Generation.of(request, session))

    def _forget(self, now: float) -> None:
        while (oldest := self._turns.oldest()) is not None:
            tenant, key, (_, since) = oldest
            if since > now - self._lifetime_s:
                return
            self._turns.forget(tenant, key)


def _inherits(request: GenerationRequest) -> bool:
    """Whether a text may be answered that was generated for an earlier request."""
    params = request.params
    repeats = params.seed is not None and not params.greedy
    reports = params.logprobs is not None or params.prompt_logprobs is not None
    return len(request.prompts) * request.best_of == 1 and not (repeats or reports or params.min_tokens)


def _alike(request: GenerationRequest, session: EditorSession) -> tuple[object, ...]:
    params = msgspec.structs.replace(request.params, max_tokens=0, seed=None)
    rules = request.rules and msgspec.structs.replace(request.rules, prefixes=(), suffixes=())
    return (session.surroundings, params, rules, request.stop, request.include_stop, request.skip_special)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
