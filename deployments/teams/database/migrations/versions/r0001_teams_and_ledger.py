"""Teams, keys, members, prices, the ledger with its roll-up, and the audit log."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKeyConstraint,
    LargeBinary,
    PrimaryKeyConstraint,
    Text,
    text,
)

from deployments.teams.database.migrations.rules import make_append_only, whole

revision = "0001"
down_revision = None


def upgrade() -> None:
    _teams()
    _ledger()
    _audit()
    make_append_only("ledger", "audit", "prices")


def _teams() -> None:
    op.create_table(
        "teams",
        Column("id", Text, nullable=False),
        Column("name", Text, nullable=False),
        Column("created_at", Double, nullable=False),
        Column("weight", Double, nullable=False),
        Column("service_class", Text, nullable=False),
        *_numbers("requests_per_minute", "tokens_per_minute", "parallel", "budget_amount", nullable=True),
        Column("budget_period", Text),
        Column("budget_hard", Boolean),
        Column("cache_root", Text, nullable=False),
        Column("archived_at", Double),
        Column("terms_version", Text),
        Column("terms_accepted_by", Text),
        Column("terms_accepted_at", Double),
        PrimaryKeyConstraint("id", name="pk_teams"),
    )
    here = text("archived_at IS NULL")
    op.create_index("ix_teams_name", "teams", ["name"], unique=True, sqlite_where=here, postgresql_where=here)
    op.create_table(
        "keys",
        Column("id", Text, nullable=False),
        Column("team_id", Text),
        Column("name", Text, nullable=False),
        Column("digest", LargeBinary, nullable=False),
        Column("pepper_id", Text, nullable=False),
        Column("last_four", Text, nullable=False),
        Column("scopes", Text, nullable=False),
        Column("created_at", Double, nullable=False),
        Column("created_by", Text, nullable=False),
        *_numbers("requests_per_minute", "tokens_per_minute", "parallel", nullable=True),
        Column("expires_at", Double),
        Column("revoked_at", Double),
        PrimaryKeyConstraint("id", name="pk_keys"),
        ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_keys_team_id"),
    )
    op.create_index("ix_keys_team_id", "keys", ["team_id"])
    op.create_index("ix_keys_digest", "keys", ["digest"], unique=True)
    op.create_table(
        "members",
        Column("team_id", Text, nullable=False),
        Column("user", Text, nullable=False),
        Column("role", Text, nullable=False),
        Column("email", Text),
        Column("name", Text),
        Column("created_at", Double, nullable=False),
        PrimaryKeyConstraint("team_id", "user", name="pk_members"),
        ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_members_team_id"),
    )
    op.create_index("ix_members_user", "members", ["user"])


def _ledger() -> None:
    op.create_table(
        "prices",
        Column("model", Text, nullable=False),
        Column("valid_from", Double, nullable=False),
        *_numbers("input", "cached", "output"),
        PrimaryKeyConstraint("model", "valid_from", name="pk_prices"),
    )
    op.create_table(
        "ledger",
        Column("id", Text, nullable=False),
        Column("team_id", Text, nullable=False),
        Column("key_id", Text),
        *(Column(name, Text, nullable=False) for name in ("model", "dialect", "kind")),
        Column("started_at", Double, nullable=False),
        Column("ended_at", Double, nullable=False),
        *_numbers("prompt_tokens", "cached_tokens", "completion_tokens", "cost", "replayed_tokens", "requests"),
        Column("request_id", Text),
        Column("user", Text),
        Column("estimated", Boolean, nullable=False),
        PrimaryKeyConstraint("id", name="pk_ledger"),
    )
    op.create_index("ix_ledger_started_at_id", "ledger", ["started_at", "id"])
    op.create_index("ix_ledger_team_id_started_at_id", "ledger", ["team_id", "started_at", "id"])
    op.create_table(
        "usage_hour",
        Column("team_id", Text, nullable=False),
        Column("hour", BigInteger, nullable=False),
        *(Column(name, Text, nullable=False) for name in ("key_id", "model", "kind", "dialect", "user")),
        *_numbers("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "replayed_tokens", "cost"),
        *_numbers("accepted", "accepted_lines"),
        PrimaryKeyConstraint("team_id", "hour", "key_id", "model", "kind", "dialect", "user", name="pk_usage_hour"),
        *whole("cost"),
    )
    op.create_index("ix_usage_hour_hour", "usage_hour", ["hour"])


def _audit() -> None:
    op.create_table(
        "audit",
        Column("number", BigInteger, nullable=False, autoincrement=False),
        Column("at", Double, nullable=False),
        *(Column(name, Text, nullable=False) for name in ("actor", "action", "subject", "detail")),
        *(Column(name, Text, nullable=False) for name in ("previous", "digest")),
        PrimaryKeyConstraint("number", name="pk_audit"),
    )
    op.create_table(
        "audit_head",
        Column("id", BigInteger, nullable=False, autoincrement=False),
        Column("number", BigInteger, nullable=False),
        Column("digest", Text, nullable=False),
        PrimaryKeyConstraint("id", name="pk_audit_head"),
    )
    op.execute("INSERT INTO audit_head (id, number, digest) VALUES (1, 0, '')")


def _numbers(*names: str, nullable: bool = False) -> tuple[Column[int], ...]:
    return tuple(Column(name, BigInteger, nullable=nullable) for name in names)
