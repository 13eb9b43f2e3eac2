"""What all dialects share: bodies, rendering, sampling fields, streaming."""
