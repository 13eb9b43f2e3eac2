"""What the database holds, as values. Times are Unix seconds; money is picodollars (`deployments.teams.money`)."""

from __future__ import annotations

from typing import Literal

import msgspec

ServiceClass = Literal["interactive", "standard", "batch"]
"""In this order they are served."""

Period = Literal["day", "week", "month"]
"""Of a budget, in UTC: a calendar day, a week from Monday, a calendar month."""

Role = Literal["owner", "member", "viewer"]
"""Of a person in a team. owner: members, limits of keys, everything below; member: keys of their own; viewer: looks."""

MAKERS: tuple[Role, ...] = ("owner", "member")
"""Those make keys of the team for themselves."""

Scope = Literal["generate", "usage", "admin", "metrics"]
"""What a key may do. generate: the model's routes; usage: read its team's usage; admin: everything under
`/v1/organization`; metrics: `/metrics`."""

UsageKind = Literal["completed", "superseded", "cancelled", "failed"]
"""What became of what was computed. superseded: a newer request of the editor session took its place; cancelled: its
client went away; failed: the server broke it off."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """None: no limit. parallel: requests at once."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    parallel: int | None = None


NO_LIMITS = Limits()


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """amount: for each period. hard: nothing is computed beyond it; else it is only told."""

    amount: int
    period: Period = "month"
    hard: bool = False


class Team(msgspec.Struct, frozen=True, kw_only=True):
    """id: `team_` and a UUID; names are unique among teams that are not archived, and metric labels.

    weight: its share of a full server, against others of its class. cache_root: what its prompts' blocks are hashed
    from, so that no other team can find them; random, made with the team. terms_version: of the use restrictions that
    were accepted for it.
    """

    id: str
    name: str
    created_at: float
    weight: float = 1.0
    service_class: ServiceClass = "standard"
    limits: Limits = NO_LIMITS
    budget: Budget | None = None
    cache_root: str = ""
    archived_at: float | None = None
    terms_version: str | None = None
    terms_accepted_by: str | None = None
    terms_accepted_at: float | None = None


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """id: `key_` and a UUID. team_id: None for keys of administrators. digest, pepper_id: see `deployments.teams.keys`.

    created_by: an actor, see `Audit`; or `admin:SUB`, an administrator, of a team in which they make none for
    themselves. One of `user:SUB` is good only as long as that person has a role of `MAKERS` in the team.
    """

    id: str
    team_id: str | None
    name: str
    digest: bytes
    pepper_id: str
    last_four: str
    scopes: tuple[Scope, ...]
    created_at: float
    created_by: str
    limits: Limits = NO_LIMITS
    expires_at: float | None = None
    revoked_at: float | None = None


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """user: `sub` of the identity provider. email, name: as it said last."""

    user: str
    team_id: str
    role: Role
    email: str | None = None
    name: str | None = None
    created_at: float = 0.0


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """Picodollars a token, from `valid_from` on; never changed, only followed by a newer one."""

    model: str
    input: int
    cached: int
    output: int
    valid_from: float

    def cost(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> int:
        """cached_tokens: of the prompt tokens, those that were found in the cache."""
        return (
            (prompt_tokens - cached_tokens) * self.input + cached_tokens * self.cached + completion_tokens * self.output
        )


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One call of the engine that somebody pays for, booked once.

    id: a UUID of version 7, made by the server. request_id: the HTTP request's, for the log; never a key of this table.
    cached_tokens: of the prompt tokens. replayed_tokens: of the completion tokens, those that an earlier request of the
    editor session had generated (and paid for); they cost what cached tokens cost. estimated: the server died over it,
    and the tokens are those of its last word; or it was given up before the first token, and its prompts count whole.
    """

    id: str
    team_id: str
    key_id: str | None
    model: str
    dialect: str
    kind: UsageKind
    started_at: float
    ended_at: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost: int
    replayed_tokens: int = 0
    requests: int = 1
    request_id: str | None = None
    user: str | None = None
    estimated: bool = False


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """Completions that somebody took into their text, as their editor says. lines: how many they are."""

    team_id: str
    key_id: str | None
    model: str
    dialect: str
    at: float
    lines: int
    completions: int = 1
    user: str | None = None


Bucket = Literal["hour", "day", "all"]
"""Of usage, in UTC. all: one for the whole time that is asked for."""

Grouping = Literal["team", "key", "model", "kind", "dialect", "user"]


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """A sum over entries that began in `start <= time < end`; None for what was not grouped by.

    accepted, accepted_lines: see `Accepted`.
    """

    start: float
    end: float
    team_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    kind: str | None = None
    dialect: str | None = None
    user: str | None = None
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    replayed_tokens: int = 0
    cost: int = 0
    accepted: int = 0
    accepted_lines: int = 0


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """Of a person who has signed in, see `Member`. admin: an administrator, as the identity provider said then."""

    user: str
    email: str | None
    name: str | None
    created_at: float
    expires_at: float
    admin: bool = False


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """One change, chained to the one before: `digest` is SHA-256 over it and that one's digest.

    actor: `local` (a command on the server's machine), `key:ID`, `user:SUB`, `provider` (the identity provider, as
    somebody signs in). action: `team.created`, `key.revoked`, ...
    detail: what changed, without secrets.
    """

    number: int
    at: float
    actor: str
    action: str
    subject: str
    detail: dict[str, str | int | float | bool | None]
    previous: str
    digest: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All that requests are checked against.

    version: grows with every change. keys: by digest; revoked ones are not among them. closed: some key was ever made.
    """

    version: int
    teams: dict[str, Team]
    keys: dict[bytes, Key]
    prices: tuple[Price, ...] = ()
    closed: bool = False


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What is on the ledger for a team in the period of its budget that begins at `period_start`."""

    period_start: float
    amount: int
