"""The block pool against a model of it, and the hash chain's properties."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model.scheduling.kv_cache import BlockPool, OutOfBlocks, chain_hashes

tokens = st.lists(st.integers(0, 3), max_size=40)


@given(tokens, tokens, st.integers(1, 8))
def test_equal_hashes_mean_equal_tokens_from_the_start(one, other, size):
    pairs = list(zip(chain_hashes(one, size), chain_hashes(other, size), strict=False))
    for index, (a, b) in enumerate(pairs):
        end = (index + 1) * size
        assert (a == b) == (one[:end] == other[:end])


@given(tokens, st.integers(1, 8), st.data())
def test_hashes_can_be_continued(sequence, size, data):
    known = chain_hashes(sequence[: data.draw(st.integers(0, len(sequence)))], size)
    assert chain_hashes(sequence, size, known) == chain_hashes(sequence, size)
    assert len(chain_hashes(sequence, size)) == len(sequence) // size


def test_the_same_tokens_elsewhere_are_another_block():
    hashes = chain_hashes([1, 2, 1, 2], 2)
    assert hashes[0] != hashes[1]


class PoolMachine(RuleBasedStateMachine):
    """Sequences take, share and give back blocks in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(12, 4)
        self.owners: list[list[int]] = []
        self.counter = 0

    @rule(count=st.integers(0, 6))
    def allocate(self, count):
        free = self.pool.num_free
        try:
            blocks = self.pool.allocate(count)
        except OutOfBlocks:
            assert count > free
            assert self.pool.num_free == free
        else:
            assert len(blocks) == count <= free
            self.owners.append(blocks)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def publish(self, data):
        blocks = data.draw(st.sampled_from(self.owners))
        for block in blocks:
            self.counter += 1
            value = b"%d" % self.counter
            if block not in self.pool._hash_of:
                self.pool.publish(block, value)
                assert self.pool.match([value]) == [block]

    @rule(data=st.data())
    def share(self, data):
        known = sorted(self.pool._block_of)
        if known:
            blocks = self.pool.match([data.draw(st.sampled_from(known))])
            free, taken = self.pool.num_free, self.pool.free_among(blocks)
            self.pool.hold(blocks)
            assert self.pool.num_free == free - taken
            self.owners.append(blocks)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def release(self, data):
        index = data.draw(st.integers(0, len(self.owners) - 1))
        self.pool.release(self.owners.pop(index))

    @invariant()
    def is_sound(self):
        self.pool.check_integrity(self.owners)
        assert self.pool.num_used + self.pool.num_free == self.pool.num_blocks


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_leak_is_found():
    pool = BlockPool(4, 2)
    pool.allocate(1)
    with pytest.raises(AssertionError, match="reference counts"):
        pool.check_integrity([])


def test_blocks_without_content_are_reused_before_cached_ones():
    pool = BlockPool(3, 2)
    blocks = pool.allocate(3)
    pool.publish(blocks[0], b"content")
    pool.release(blocks)
    pool.allocate(2)
    assert pool.match([b"content"]) == [blocks[0]]
    pool.allocate(1)
    assert pool.match([b"content"]) == []


def test_without_caching_nothing_is_found():
    pool = BlockPool(2, 2, caching=False)
    pool.publish(pool.allocate(1)[0], b"x")
    assert pool.match([b"x"]) == []
