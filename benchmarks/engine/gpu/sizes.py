"""How much is measured: on a GPU what it is bought for, on a CPU just enough to run every line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """batches: sequences that decode at once, `before` tokens behind them, for `steps` tokens each. prompt: tokens of
    the prefill. requests: how many at once, tokens in, tokens out. window: tokens of the longest sequence.

    attended: for attention's speed: sequences, new tokens of each, and its context.
    recorded: tokens of a step, up to which all are recorded for the check.
    attention, checked: query heads of width `width` over one key head, contexts, and parts of a context. reference:
    the shape compared with transformers, and split over two ranks. copy_mib, matmul: of the limits; 0 by device.
    products: rows of single products, and MiB of the copies of their weights.
    """

    batches: tuple[int, int, int, int]
    before: int
    steps: int
    prompt: int
    requests: tuple[int, int, int]
    window: int
    heads: int
    width: int
    contexts: tuple[int, ...]
    recorded: int
    splits: tuple[int, ...]
    reference: str
    split_over_ranks: str
    copy_mib: int
    matmul: int
    attended: tuple[tuple[int, int, int], ...]
    products: tuple[int, ...]
    products_mib: int

    @property
    def blocks(self) -> int:
        """Of 16 tokens: what the largest measurement holds at once, and one sequence of the longest length."""
        count, before, new = self.requests
        longest = max(before + new, self.before + self.steps + 32)
        return max(count, *self.batches) * (-(-longest // 16) + 1) + -(-self.window // 16)


FULL = Sizes(
    batches=(1, 8, 64, 256),
    before=512,
    steps=64,
    prompt=2048,
    requests=(256, 512, 128),
    window=8192,
    heads=48,
    width=128,
    contexts=(1, 63, 64, 65, 2048, 8192),
    recorded=2048,
    splits=(1, 2, 8, 32),
    reference="1b",
    split_over_ranks="164m",
    copy_mib=0,
    matmul=0,
    attended=(
        (1, 1, 512),
        (1, 1, 8192),
        (8, 1, 2048),
        (64, 1, 512),
        (64, 1, 4096),
        (256, 1, 512),
        (256, 1, 2048),
        (8, 9, 1024),
        (1, 256, 2048),
        (1, 2048, 2048),
        (1, 2048, 8192),
    ),
    products=(1, 8, 16, 64, 256, 2048),
    products_mib=512,
)
SMALL = Sizes(
    batches=(1, 2, 3, 4),
    before=24,
    steps=6,
    prompt=64,
    requests=(6, 24, 6),
    window=512,
    heads=4,
    width=32,
    contexts=(1, 63, 64, 65, 300, 512),
    recorded=64,
    splits=(1, 2, 8, 32),
    reference="tiny",
    split_over_ranks="tiny",
    copy_mib=16,
    matmul=256,
    attended=((2, 1, 70), (1, 40, 70)),
    products=(1, 5),
    products_mib=1,
)
