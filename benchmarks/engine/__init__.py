"""The engine alone, in this process: its speed, its memory, its start, and what 8 bits and drafts change."""
