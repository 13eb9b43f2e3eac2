"""What runs in the next step, and where its keys and values lie."""
