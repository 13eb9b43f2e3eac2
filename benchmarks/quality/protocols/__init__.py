"""Benchmarks as they were run when the published figures were made: prompts, stops, sampling, and what is executed."""
