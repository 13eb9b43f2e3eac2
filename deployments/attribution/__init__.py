"""Whose code is that: completions that repeat code of an index get its file, line and licence."""
