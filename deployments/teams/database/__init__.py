"""The database below `deployments.teams.store`: connections, tables, and how they came to be as they are."""
