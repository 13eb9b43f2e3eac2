"""Sessions of people who sign in, and what teams spend by day, from what they have used until now."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Double, LargeBinary, PrimaryKeyConstraint, Text

from deployments.teams.database.migrations.rules import whole

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "sessions",
        Column("digest", LargeBinary, nullable=False),
        Column("user", Text, nullable=False),
        Column("email", Text),
        Column("name", Text),
        Column("created_at", Double, nullable=False),
        Column("expires_at", Double, nullable=False),
        Column("admin", Boolean, nullable=False),
        PrimaryKeyConstraint("digest", name="pk_sessions"),
    )
    op.create_index("ix_sessions_user", "sessions", ["user"])
    op.create_table(
        "spend_day",
        Column("team_id", Text, nullable=False),
        Column("day", BigInteger, nullable=False),
        Column("cost", BigInteger, nullable=False),
        PrimaryKeyConstraint("team_id", "day", name="pk_spend_day"),
        *whole("cost"),
    )
    op.execute(
        "INSERT INTO spend_day (team_id, day, cost) "
        "SELECT team_id, hour - hour % 86400, sum(cost) FROM usage_hour GROUP BY team_id, hour - hour % 86400"
    )
