"""The tables as they are now; `migrations` tells how they came to be. Times, money and names as in `records`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def storable(value: str) -> str:
    """What PostgreSQL cannot hold, NUL and half characters, becomes U+FFFD: else one name would stop a ledger."""
    if value.isascii() and "\0" not in value:
        return value
    return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Words(TypeDecorator[str]):
    """Text that somebody else has written."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


def _limits() -> tuple[Column[int | None], ...]:
    return tuple(Column(name, BigInteger) for name in ("requests_per_minute", "tokens_per_minute", "parallel"))


teams = Table(
    "teams",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("weight", Double, nullable=False),
    Column("service_class", Text, nullable=False),
    *_limits(),
    Column("budget_amount", BigInteger),
    Column("budget_period", Text),
    Column("budget_hard", Boolean),
    Column("cache_root", Text, nullable=False),
    Column("archived_at", Double),
    Column("terms_version", Words),
    Column("terms_accepted_by", Words),
    Column("terms_accepted_at", Double),
)
_here = text("archived_at IS NULL")
Index("ix_teams_name", teams.c.name, unique=True, sqlite_where=_here, postgresql_where=_here)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("team_id", Text, ForeignKey("teams.id"), index=True),
    Column("name", Words, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("pepper_id", Text, nullable=False),
    Column("last_four", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("created_by", Words, nullable=False),
    *_limits(),
    Column("expires_at", Double),
    Column("revoked_at", Double),
)
Index(None, keys.c.digest, unique=True)

members = Table(
    "members",
    metadata,
    Column("team_id", Text, ForeignKey("teams.id"), primary_key=True),
    Column("user", Words, primary_key=True, index=True),
    Column("role", Text, nullable=False),
    Column("email", Words),
    Column("name", Words),
    Column("created_at", Double, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("user", Words, nullable=False, index=True),
    Column("email", Words),
    Column("name", Words),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("admin", Boolean, nullable=False),
)

prices = Table(
    "prices",
    metadata,
    Column("model", Words, primary_key=True),
    Column("valid_from", Double, primary_key=True),
    Column("input", BigInteger, nullable=False),
    Column("cached", BigInteger, nullable=False),
    Column("output", BigInteger, nullable=False),
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", Text, primary_key=True),
    Column("team_id", Text, nullable=False),  # no foreign key: what was computed is booked, whatever became of a team
    Column("key_id", Text),
    Column("model", Words, nullable=False),
    Column("dialect", Words, nullable=False),
    Column("kind", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("replayed_tokens", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("request_id", Words),
    Column("user", Words),
    Column("estimated", Boolean, nullable=False),
)
Index(None, ledger.c.started_at, ledger.c.id)
Index(None, ledger.c.team_id, ledger.c.started_at, ledger.c.id)

NOBODY = ""
"""In the place of a key or a user of the roll-up, where there was none: NULL would be no key of a row."""

usage_hour = Table(
    "usage_hour",
    metadata,
    Column("team_id", Text, primary_key=True),
    Column("hour", BigInteger, primary_key=True, autoincrement=False, index=True),
    Column("key_id", Text, primary_key=True),
    Column("model", Words, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("dialect", Words, primary_key=True),
    Column("user", Words, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("replayed_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("accepted", BigInteger, nullable=False),
    Column("accepted_lines", BigInteger, nullable=False),
)

spend_day = Table(
    "spend_day",
    metadata,
    Column("team_id", Text, primary_key=True),
    Column("day", BigInteger, primary_key=True, autoincrement=False),
    Column("cost", BigInteger, nullable=False),
)
"""What budgets are compared with: at most 31 rows a team, where `usage_hour` has thousands."""

audit = Table(
    "audit",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("digest", Text, nullable=False),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
)
"""One row, the end of the chain. Whoever changes anything holds its lock, so the chain never forks."""
