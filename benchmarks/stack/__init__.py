"""Everything around the engine: the real server before an engine that answers from a table, and what it costs."""
