"""What becomes known of one HTTP request while it is answered, for its log line and its span.

The record hangs on the task that answers the request, so that whoever learns something can note it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from deployments.errors import InternalError, OverloadedError, ServeError, unwrap
from deployments.protocol import Delta, GenerationRequest
from deployments.stop_rules import superseded
from deployments.teams.counting import Grant
from deployments.teams.principal import Principal
from monitoring import logs
from monitoring.labels import DEFAULT_TEAM
from monitoring.spans import NO_SPAN, Span
from monitoring.specs import FIRST_TOKEN_OBJECTIVE_S

Outcome = Literal["ok", "refused", "shed", "aborted", "superseded", "failed"]
"""`monitoring.labels.OUTCOMES` says what they mean."""

# Other messages may say what was sent, which can be a piece of a prompt, wherever the client put it.
_PLAIN_CODES = frozenset(
    {
        *("context_length_exceeded", "too_many_completions", "invalid_json", "request_timeout", "request_too_large"),
        *("overloaded", "host_not_allowed", "origin_not_allowed", "invalid_api_key", "insufficient_permissions"),
        *("rate_limit_exceeded", "insufficient_quota", "terms_not_accepted"),
    }
)

_current: ContextVar[RequestRecord | None] = ContextVar("starcoder_request", default=None)


def current() -> RequestRecord | None:
    """The record of the request that this task answers."""
    return _current.get()


def set_dialect(name: str) -> None:
    """The route says it, and again where more than one dialect shares a route."""
    if (record := current()) is not None:
        record.dialect = name


def received() -> None:
    """All of the request is here; what it waits from now on is our doing."""
    if (record := current()) is not None:
        record.received = True


def nobody_waits() -> None:
    """It is asked for what it leaves in the cache, not for text."""
    if (record := current()) is not None:
        record.awaited = False


def taken(completion_id: str) -> None:
    """A replica has taken this request of an engine."""
    if (record := current()) is not None:
        record.taken_ids.add(completion_id)


def blocked(index: int) -> None:
    """A completion has ended, whatever an engine may say of it later: it would have repeated too much of known code."""
    if (record := current()) is not None:
        record.blocked.add(index)
        record.generated_s = record.age_s()


def whole(completion_id: str) -> None:
    """No more is wanted of an internal request, since all of its completions have ended."""
    if (record := current()) is not None:
        record.whole_ids.add(completion_id)


@dataclass
class RequestRecord:
    """Times are in seconds by `clock`; `started_at`: when the request came, and what is measured from then.

    given_id: the client's own id, where it could not be used.
    stream: whether the answer is one, which is known once it begins; sent_all: it was written to its end.
    completion_ids: of the internal requests it became.
    prompt_tokens, completion_tokens: of all sequences together, a prompt counted once. What was generated of an
    answer that nobody waited for is not known here.
    ended_by: rules of this server that ended a completion. engine: the replica that generated.
    received: all of it is here. awaited: somebody waits for its text.
    ttft_s: until the first token was there. generated_s: until a completion was whole, the last one.
    text_waits: there is text for its client, none of which has been sent. first_text_s: until bytes with text were
    sent; of a whole answer, less what was generated behind its first token, for which its client chose to wait.
    taken_ids: of `completion_ids`, those of which an engine's replica has been heard to take them. whole_ids: those of
    which all is there, though an engine has more to say. blocked: completions that were ended as copies.
    principal: who asks; None where nobody is asked for a key. grant: what its limits leave to it.
    prompts, texts: only where text may be logged; of texts, the parts in which they came.
    """

    request_id: str
    method: str
    path: str
    given_id: str | None = None
    user_agent: str | None = None
    team: str = DEFAULT_TEAM
    model: str | None = None
    dialect: str | None = None
    stream: bool | None = None
    status: int | None = None
    sent_all: bool = False
    clock: Callable[[], float] = time.monotonic
    started_at: float = field(init=False)
    received: bool = False
    awaited: bool = True
    completion_ids: list[str] = field(default_factory=list)
    sequences: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    queue_s: float | None = None
    ttft_s: float | None = None
    generated_s: float | None = None
    text_waits: bool = False
    first_text_s: float | None = None
    finish_reasons: dict[int, str] = field(default_factory=dict)
    ended_by: set[str] = field(default_factory=set)
    engine: str | None = None
    taken_ids: set[str] = field(default_factory=set)
    whole_ids: set[str] = field(default_factory=set)
    blocked: set[int] = field(default_factory=set)
    principal: Principal | None = None
    grant: Grant | None = None
    error: ServeError | None = None
    exception: BaseException | None = None
    span: Span = NO_SPAN
    prompts: list[str] | None = None
    texts: dict[int, list[str]] | None = None

    def __post_init__(self) -> None:
        self.started_at = self.clock()

    def of(self, principal: Principal) -> None:
        """It is known who asks."""
        self.principal = principal
        if principal.team is not None:
            self.team = principal.team.name

    def make_current(self) -> None:
        _current.set(self)

    def asked(self, request: GenerationRequest) -> None:
        """The engine is about to get this."""
        self.completion_ids.append(request.request_id)
        self.sequences += len(request.prompts) * request.best_of
        self.prompt_tokens = (self.prompt_tokens or 0) + sum(len(prompt) for prompt in request.prompts)

    def saw(self, deltas: list[Delta], live: bool) -> None:
        """News of its completions. live: as they came, not all at the end."""
        if self.awaited and self.first_text_s is None and any(delta.text for delta in deltas):
            self.text_waits = True
        for delta in deltas:
            self.completion_tokens = (self.completion_tokens or 0) + len(delta.token_ids)
            if delta.token_ids and self.ttft_s is None:
                self.ttft_s = self.age_s() - (0.0 if live else generated_after_first(deltas))
                self.queue_s = delta.queue_seconds
            if delta.cached_tokens or delta.engine:
                self.cached_tokens = max(self.cached_tokens, delta.cached_tokens)
                self.engine = delta.engine or self.engine
            if delta.ended_by is not None:
                self.ended_by.add(delta.ended_by)
            if delta.finish_reason is not None:
                self.finish_reasons[delta.index] = delta.finish_reason
                self.generated_s = self.age_s()
            if self.texts is not None:
                self.texts.setdefault(delta.index, []).append(delta.text)

    def sends_text(self) -> None:
        """Bytes are handed over for sending while `text_waits`: they have it, or say that there was an error."""
        self.text_waits = False
        if self.error is None:
            self.first_text_s = self.age_s() - (0.0 if self.stream else self._rest_s)

    @property
    def _rest_s(self) -> float:
        """From the first token to the end of what was generated."""
        return 0.0 if self.generated_s is None or self.ttft_s is None else self.generated_s - self.ttft_s

    def age_s(self) -> float:
        return self.clock() - self.started_at

    @property
    def answered(self) -> bool:
        """Its client got text, or the whole of an answer that has none."""
        whole = self.outcome == "ok" and bool(self.completion_ids)
        return self.awaited and (self.first_text_s is not None or whole)

    def first_token_s(self) -> float | None:
        """At its end: what counts as its client's wait for the first token; None: it had no chance to get one.

        Who asks for a whole answer chooses to wait for the rest as well, which does not count. An empty answer says so
        at its end. Whoever goes away without a token has missed it, unless that was before it was late.
        """
        if not self.awaited or self.first_text_s is not None:
            return self.first_text_s
        age = self.age_s()
        given_up = self.received and self.outcome in ("aborted", "superseded") and age > FIRST_TOKEN_OBJECTIVE_S
        return age if self.answered or given_up else None

    def failed(self, error: ServeError, exception: BaseException | None = None) -> None:
        """How it ends. exception: what nobody expected, for the log."""
        if self.error is None:
            self.error, self.exception = error, exception

    @property
    def outcome(self) -> Outcome:
        if superseded.RULE.name in self.ended_by:
            return "superseded"
        if self.error is not None:
            if isinstance(self.error, OverloadedError):
                return "shed"
            return "refused" if self.error.status < 500 else "failed"
        return "ok" if self.sent_all else "aborted"

    def fields(self) -> dict[str, Any]:
        """Of the log line; None where there is nothing to say."""
        return {
            "request_id": self.request_id,
            "given_request_id": self.given_id,
            "team": self.team,
            "key": self.principal.key.id if self.principal is not None and self.principal.key is not None else None,
            "model": self.model,
            "dialect": self.dialect,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "outcome": self.outcome,
            "stream": self.stream if self.prompt_tokens is not None else None,
            "sequences": self.sequences if self.sequences > 1 else None,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": None if self.completion_tokens is None else self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "finish_reasons": self._reasons() or None,
            "ended_by": sorted(self.ended_by) or None,
            "queue_ms": _ms(self.queue_s),
            "ttft_ms": _ms(self.ttft_s if self.first_text_s is None else self.first_text_s),
            "duration_ms": _ms(self.age_s()),
            "error": None if self.error is None else self._error(self.error),
            "engine": self.engine,
            "completion_ids": self.completion_ids or None,
            "trace_id": self.span.trace_id or None,
            "user_agent": self.user_agent,
            "prompts": self.prompts,
            "texts": None if self.texts is None else ["".join(self.texts[i]) for i in sorted(self.texts)],
        }

    def _reasons(self) -> list[str]:
        return sorted({*(self.finish_reasons | dict.fromkeys(self.blocked, "content_filter")).values()})

    def _error(self, error: ServeError) -> dict[str, str]:
        said = {"code": error.code, "param": error.param}
        if error.code in _PLAIN_CODES or error.status >= 500 or self.texts is not None:
            said["message"] = error.message
        return {name: value for name, value in said.items() if value is not None}


def generated_after_first(deltas: list[Delta]) -> float:
    """What was generated of whole completions behind the first token of any, in seconds; 0 where nobody says it."""
    first = min((delta.first_token_seconds for delta in deltas if delta.first_token_seconds), default=0.0)
    last = max((delta.ended_seconds for delta in deltas), default=0.0)
    return max(last - first, 0.0) if first else 0.0


def report(error: BaseException, request_id: str | None) -> ServeError:
    """`unwrap`, noted in the request's record: with the traceback where nobody expected it."""
    found = unwrap(error)
    unexpected = isinstance(found, InternalError) and found is not error
    if isinstance(found, InternalError) and request_id is not None and request_id not in found.message:
        found.message = f"{found.message} It calls the request {request_id}."
    if (record := current()) is not None:
        record.failed(found, error if unexpected else None)
    elif unexpected:
        logs.logger.error("request %s failed", request_id, exc_info=error)
    return found


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
