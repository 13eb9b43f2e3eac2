"""One rank as a process, and the wire between it and its client."""
