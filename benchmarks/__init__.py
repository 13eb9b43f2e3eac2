"""What is measured and how: the engine alone, a running server, people who type, and other engines beside it."""
