"""Fill in the middle: where a piece of text is cut, and how the three parts are laid out as ids.

PSM and SPM as in Bavarian et al. 2022 (arXiv:2207.14255), with StarCoder's order for SPM ("SPMv2"). The cut is at
character level and the parts are encoded separately; the middle always ends with ``<|endoftext|>``.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from model.pico.tokenizer_training import END, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX

Encode = Callable[[str], list[int]]
MARK = 1 << 16
"""Added to the ids of a middle, and of the end that follows it: what training lays weight on."""
INSTEAD = 17
"""Above this bit, one more than the id that is to be predicted in the place of this one; 0: this one."""


def cut(text: str, rng: random.Random) -> tuple[str, str, str]:
    """Prefix, middle and suffix; joined they are the text.

    Four kinds of hole: any two points (10 %), up to 12 characters (10 %), one line or the rest of it from a point in it
    (70 %, half of them whole), 1 to 4 lines (10 %). Editors ask for the short ones, and a small network can learn them.
    """
    kind = rng.random()
    if kind < 0.1:
        start, end = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    elif kind < 0.2:
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.randint(1, 12))
    else:
        starts = [0] + [i + 1 for i, c in enumerate(text) if c == "\n"]
        first = rng.randrange(len(starts))
        last = min(len(starts), first + rng.randint(1, 4)) if kind >= 0.9 else first + 1
        end = starts[last] - 1 if last < len(starts) else len(text)
        start = starts[first]
        indent = len(text[start:end]) - len(text[start:end].lstrip())
        start += indent
        if kind < 0.9 and rng.random() < 0.5:
            start = rng.randint(start, max(start, end))
    return text[:start], text[start:end], text[end:]


def arrange(parts: tuple[list[int], list[int], list[int]], spm: bool) -> list[int]:
    """The ids of prefix, middle and suffix in PSM or SPMv2 order, ended."""
    prefix, middle, suffix = parts
    if spm:
        return [FIM_PREFIX, FIM_SUFFIX, *suffix, FIM_MIDDLE, *prefix, *middle, END]
    return [FIM_PREFIX, *prefix, FIM_SUFFIX, *suffix, FIM_MIDDLE, *middle, END]


def prompt(prefix: list[int], suffix: list[int], spm: bool) -> list[int]:
    """What the model is given when it is asked for the middle."""
    return arrange((prefix, [], suffix), spm)[:-1]


def transform(
    text: str, encode: Encode, rng: random.Random, header: list[int] | None = None, psm_share: float = 0.5
) -> list[int]:
    """Cuts a text, lays it out as PSM or SPMv2, by chance. A header (file name) opens the prefix.

    The middle and its end are marked. What follows ``<fim_suffix>`` in PSM is not foreseeable, so the middle's first
    token is asked for there as well: before ``<fim_middle>`` can find the end of the prefix, some place has to hold
    what comes after it.
    """
    prefix, middle, suffix = map(encode, cut(text, rng))
    prefix = [*(header or []), *prefix]
    spm = rng.random() >= psm_share
    ids = arrange((prefix, middle, suffix), spm)
    start = len(ids) - len(middle) - 1
    ids[start:] = [id | MARK for id in ids[start:]]
    if not spm:
        first = ids[start] % MARK
        ids[len(prefix) + 2] |= MARK | (first + 1) << INSTEAD
    return ids
