"""How alike two texts are."""

from __future__ import annotations

import numpy as np


def similarity(a: str, b: str) -> float:
    """1 - Levenshtein distance / length of the longer text; 1 for two empty ones."""
    if not a or not b:
        return float(a == b)
    row, columns = np.arange(len(b) + 1), np.arange(len(b) + 1)
    letters = np.array([ord(char) for char in b])
    for number, char in enumerate(a, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + (letters != ord(char)))
        # an insertion costs one more than what stands to the left of it
        row = np.minimum.accumulate(np.concatenate(([number], best)) - columns) + columns
    return 1 - float(row[-1]) / max(len(a), len(b))
