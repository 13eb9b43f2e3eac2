"""A running server, asked over HTTP: load that arrives at random, and people who type."""
