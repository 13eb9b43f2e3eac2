"""Blocks of the key/value cache: who holds them, what they contain, which one to reuse next.

A full block is known by a hash over its tokens and its predecessor's hash, so equal hashes mean equal tokens from
position 0 on (positions are learned: a block is valid only where it was computed). A block that nobody holds keeps its
content until it is reused, least recently used first. Block contents are written by the step that first schedules
their tokens, before anything reads them; so a block is published when it is scheduled, and a sibling admitted to the
same step already shares it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

Block = int
BlockHash = bytes
ROOT: BlockHash = b""


class OutOfBlocks(Exception):
    """No free block is left."""


def block_hash(parent: BlockHash, tokens: Sequence[int]) -> BlockHash:
    """128-bit BLAKE2b of the parent's hash and the block's tokens: collisions are not a concern, even when sought."""
    return hashlib.blake2b(parent + array("q", tokens).tobytes(), digest_size=16).digest()


def root_of(name: str) -> BlockHash:
    """Where the hashes of those begin who share a cache by this name; whoever has another one finds none of its blocks.

    Without a name, where all begin who have none.
    """
    return hashlib.blake2b(name.encode(), digest_size=16, person=b"cache root").digest() if name else ROOT


def chain_hashes(
    tokens: Sequence[int], block_size: int, known: Sequence[BlockHash] = (), root: BlockHash = ROOT
) -> list[BlockHash]:
    """Hashes of all full blocks of `tokens`; `known` are those of its first blocks, already computed from `root`."""
    hashes = list(known)
    parent = hashes[-1] if hashes else root
    for start in range(len(hashes) * block_size, len(tokens) - block_size + 1, block_size):
        parent = block_hash(parent, tokens[start : start + block_size])
        hashes.append(parent)
    return hashes


class BlockPool:
    """Reference-counted blocks with a least-recently-used order among the free ones.

    drafted: blocks all of whose tokens the draft model's cache holds, too, which has the same blocks.
    """

    def __init__(self, num_blocks: int, block_size: int, *, caching: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.caching = caching
        self.drafted: set[Block] = set()
        self._references = [0] * num_blocks
        self._free: OrderedDict[Block, None] = OrderedDict.fromkeys(range(num_blocks))
        self._block_of: dict[BlockHash, Block] = {}
        self._hash_of: dict[Block, BlockHash] = {}

    @property
    def num_free(self) -> int:
        """Blocks nobody holds, cached content or not."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    @property
    def num_cached(self) -> int:
        """Blocks whose content can be found by hash, held or free."""
        return len(self._hash_of)

    def allocate(self, count: int) -> list[Block]:
        """Take `count` blocks, evicting the content of the least recently used. Raises OutOfBlocks, taking none."""
        if count > len(self._free):
            raise OutOfBlocks
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self._references[block] = 1
            self._evict(block)
            self.drafted.discard(block)
        return taken

    def match(self, hashes: Iterable[BlockHash]) -> list[Block]:
        """The longest run of cached blocks with these hashes, in order. Takes no reference."""
        blocks: list[Block] = []
        for value in hashes:
            block = self._block_of.get(value)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def references(self, block: Block) -> int:
        """How many hold it."""
        return self._references[block]

    def free_among(self, blocks: Iterable[Block]) -> int:
        """How many of `blocks` nobody holds now: what holding them takes from the free ones."""
        return sum(self._references[block] == 0 for block in blocks)

    def hold(self, blocks: Iterable[Block]) -> None:
        """Take one more reference to each block."""
        for block in blocks:
            if self._references[block] == 0:
                del self._free[block]
            self._references[block] += 1

    def release(self, blocks: Sequence[Block]) -> None:
        """Drop one reference to each block of a sequence, given in order.

        Blocks become free from the last to the first, so that a chain is eaten from its tail.
        """
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                if block not in self._hash_of:  # holds nothing of worth: first in line for reuse
                    self._free.move_to_end(block, last=False)

    def publish(self, block: Block, value: BlockHash) -> None:
        """Make a full block findable. Where an equal block is known already, that one stays."""
        if self.caching and value not in self._block_of:
            self._block_of[value] = block
            self._hash_of[block] = value

    def withdraw(self, block: Block) -> None:
        """Make a block unfindable whose content was not written after all, or is worth nothing."""
        self._evict(block)

    def _evict(self, block: Block) -> None:
        value = self._hash_of.pop(block, None)
        if value is not None:
            del self._block_of[value]

    def check_integrity(self, owners: Iterable[Sequence[Block]]) -> None:
        """Raise AssertionError unless every block is free or held by exactly the given owners, and hashes agree."""
        expected = [0] * self.num_blocks
        for blocks in owners:
            assert len(set(blocks)) == len(blocks), f"a sequence holds a block twice: {blocks}"
            for block in blocks:
                expected[block] += 1
        assert expected == self._references, "reference counts differ from what the sequences hold"
        free = {block for block, count in enumerate(expected) if count == 0}
        assert free == set(self._free), "the free list differs from the blocks without references"
        assert len(self._block_of) == len(self._hash_of)
        assert all(self._block_of[value] == block for block, value in self._hash_of.items())
