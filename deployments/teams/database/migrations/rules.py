"""What the database itself refuses, in either kind."""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint

_REFUSE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$
"""


def make_append_only(*tables: str) -> None:
    """Their rows stay as they were written."""
    if _sqlite():
        for table in tables:
            for change in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
        return
    op.execute(_REFUSE)
    for table in tables:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def whole(*columns: str) -> tuple[CheckConstraint, ...]:
    """Sums that grow too large are an error: SQLite would round them, PostgreSQL refuses by itself."""
    return tuple(CheckConstraint(f"typeof({name}) = 'integer'") for name in columns if _sqlite())


def _sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"
