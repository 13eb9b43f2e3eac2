"""Alembic's way in: `deployments.teams.database.upgrade` hands over a connection within a transaction."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

connection = context.config.attributes["connection"]
assert isinstance(connection, Connection)
context.configure(connection=connection)
context.run_migrations()
