"""One engine as a Serve replica: its ranks, its queue, its sequences, its editor sessions."""
