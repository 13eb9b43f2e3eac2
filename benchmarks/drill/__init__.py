"""`python -m benchmarks drill`: twelve failures, the panel that shows each, the alert that fires, and how soon.

`failures` is the table: what is done to a real server (`harm`), and what is expected to be seen of it.
"""
