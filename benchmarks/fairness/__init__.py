"""What each of several teams gets of one engine, and how long it waits: the real scheduler in simulated time."""
