"""The `starcoder` command, and what else runs in a terminal or a hook."""
