"""The baseline: a 5-gram model with interpolated Kneser-Ney smoothing over the same tokens (Chen & Goodman 1999).

p(w | h) = max(c(hw) - D, 0) / c(h) + D t(h) / c(h) * p(w | h'), where t(h) counts the distinct continuations of h, h'
drops the oldest token, lower orders count distinct left contexts instead of occurrences, and the recursion ends in
the uniform distribution. Every p(. | h) sums to one, so bits per byte are comparable with the network's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.uint64]
Floats = NDArray[np.float64]

BITS = np.uint64(12)
LARGEST_VOCABULARY = 1 << int(BITS)
DISCOUNT = 0.75


class _Order:
    """The counts of one order: sorted n-grams packed 12 bits a token, and sums per context."""

    def __init__(self, grams: Ints, counts: Floats) -> None:
        self.grams, self.counts = grams, counts
        self.contexts, starts = np.unique(grams >> BITS, return_index=True)
        self.starts = np.append(starts, len(grams))
        self.totals = np.add.reduceat(counts, starts)
        self.types = np.diff(self.starts).astype(np.float64)

    def parts(self, grams: Ints) -> tuple[Floats, Floats]:
        """For each n-gram its discounted share and the weight left to the lower order (1 where the context is new)."""
        at = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
        counts = np.where(self.grams[at] == grams, self.counts[at], 0.0)
        contexts = grams >> BITS
        where = np.minimum(np.searchsorted(self.contexts, contexts), len(self.contexts) - 1)
        known = self.contexts[where] == contexts
        totals = np.where(known, self.totals[where], 1.0)
        share = np.where(known, np.maximum(counts - DISCOUNT, 0) / totals, 0.0)
        return share, np.where(known, DISCOUNT * self.types[where] / totals, 1.0)


class NGram:
    """The model. Vocabularies up to 4,096 tokens, orders up to 5."""

    def __init__(self, ids: NDArray[np.int64], vocab_size: int, order: int = 5) -> None:
        if vocab_size > LARGEST_VOCABULARY or order > 5:
            raise ValueError("n-grams are packed 12 bits a token into 64 bits")
        self.vocab_size, self.order = vocab_size, order
        grams, counts = np.unique(self._pack(ids, order), return_counts=True)
        orders = [_Order(grams, counts.astype(np.float64))]
        for size in range(order - 1, 0, -1):
            mask = np.uint64((1 << (int(BITS) * size)) - 1)
            grams, counts = np.unique(grams & mask, return_counts=True)
            orders.append(_Order(grams, counts.astype(np.float64)))
        self._orders = orders[::-1]

    @staticmethod
    def _pack(ids: NDArray[np.int64], size: int) -> Ints:
        """The n-gram that ends at each position; what lies before the start is token 0."""
        padded = np.concatenate([np.zeros(size - 1, np.uint64), ids.astype(np.uint64)])
        packed = np.zeros(len(ids), np.uint64)
        for i in range(size):
            packed = (packed << BITS) | padded[i : i + len(ids)]
        return packed

    def nats(self, ids: NDArray[np.int64]) -> float:
        """The summed negative log-likelihood of a document."""
        p = np.full(len(ids), 1.0 / self.vocab_size)
        for size, order in enumerate(self._orders, 1):
            share, weight = order.parts(self._pack(ids, size))
            p = share + weight * p
        return float(-np.log(p).sum())

    def distribution(self, context: list[int]) -> Floats:
        """p(. | context), (V,)."""
        p = np.full(self.vocab_size, 1.0 / self.vocab_size)
        padded = [0] * self.order + context
        for size, order in enumerate(self._orders, 1):
            packed = 0
            for id in padded[len(padded) - size + 1 :] if size > 1 else []:
                packed = (packed << int(BITS)) | id
            at = int(np.searchsorted(order.contexts, np.uint64(packed)))
            if at == len(order.contexts) or int(order.contexts[at]) != packed:
                break
            rows = slice(order.starts[at], order.starts[at + 1])
            total = order.totals[at]
            p *= DISCOUNT * order.types[at] / total
            words = (order.grams[rows] & np.uint64(0xFFF)).astype(np.int64)
            p[words] += np.maximum(order.counts[rows] - DISCOUNT, 0) / total
        return p

    def greedy(self, context: list[int], new_tokens: int, end: int = 0) -> list[int]:
        """The most likely continuation, one token at a time, until `end` or the limit."""
        ids, made = list(context[-self.order :]), list[int]()
        while len(made) < new_tokens:
            best = int(self.distribution(ids).argmax())
            if best == end:
                break
            made.append(best)
            ids = [*ids, best][-self.order :]
        return made
