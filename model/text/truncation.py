"""Which part of a document fits the window, cut so that the prefix cache survives typing.

A cut that follows the cursor token by token changes every block of the prompt at every keystroke. Here a cut
is *anchored in the document*: it lies at a multiple of a stride of whole cache blocks, counted from the
document's start. While the user types, the window grows at its end and its start stands still for a stride of
tokens; then it jumps by one stride. The price is about one stride (a sixteenth of the window) left unused.

The number of tokens before the cursor is no steady measure of progress: `wrapp` may be three tokens and
`wrapper` one, and a cut at an anchor would move to and fro while the word is typed. So cuts follow the *demand*:
the tokens that no further typing can change, plus an allowance for the word at the cursor. Only at the length
that just fits can they still move to and fro, because what fits is never cut.
"""

from __future__ import annotations

from dataclasses import dataclass

STRIDES_PER_WINDOW = 16
WORD_ALLOWANCE = 32
SUFFIX_SHARE = 0.25


@dataclass(frozen=True)
class Window:
    """The tokens that a prompt may take, and how it is made to fit.

    max_tokens: all of them. block_size: tokens of a cache block.
    cuts: a longer prompt is cut; otherwise it is refused.
    suffix_share: share of a full window that the suffix may take when both sides of a cursor overflow.

    Raises ValueError where `suffix_share` is not in [0, 1).
    """

    max_tokens: int
    block_size: int
    cuts: bool = True
    suffix_share: float = SUFFIX_SHARE

    def __post_init__(self) -> None:
        if not 0 <= self.suffix_share < 1:
            raise ValueError(f"suffix_share={self.suffix_share} is not in [0, 1)")


def anchor_stride(budget: int, block_size: int) -> int:
    """Tokens between anchors for a window of `budget` tokens: whole blocks, about a sixteenth of the window.

    1 (no anchors) for a window of less than four blocks, where there is little to keep.
    """
    if budget < 4 * block_size:
        return 1
    return block_size * max(1, budget // (STRIDES_PER_WINDOW * block_size))


def round_up(value: int, stride: int) -> int:
    return -(-value // stride) * stride


def demand(length: int, settled: int, stride: int) -> int:
    """What a document of `length` tokens, `settled` of them final, counts for: `length` or a little more."""
    return max(length, settled + min(WORD_ALLOWANCE, stride))


def left_cut(length: int, budget: int, stride: int, demand: int | None = None) -> int:
    """How many leading tokens to drop of a document of `length` so that at most `budget` are left.

    A multiple of `stride`, unless that could leave less than half of the budget.
    """
    if length <= budget:
        return 0
    if 4 * stride > budget:
        return length - budget
    return round_up((demand or length) - budget, stride)


@dataclass(frozen=True)
class Split:
    """prefix_start: leading prefix tokens to drop. suffix_end: leading suffix tokens to keep."""

    prefix_start: int
    suffix_end: int


def split_window(
    prefix: int, suffix: int, budget: int, stride: int, suffix_share: float, demand: int | None = None
) -> Split:
    """Share `budget` tokens between a prefix and a suffix of so many tokens.

    The suffix may fill `suffix_share` of the budget; what either leaves unused flows to the other. The
    prefix's demand counts in whole strides, so that typing seldom moves the suffix's end.
    """
    if prefix + suffix <= budget:
        return Split(0, suffix)
    left_over = budget - round_up(demand or prefix, stride)
    suffix_end = min(suffix, max(int(budget * suffix_share), left_over))
    return Split(left_cut(prefix, budget - suffix_end, stride, demand), suffix_end)
