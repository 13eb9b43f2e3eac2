"""A striped cache: each token is on one rank, and what the ranks find joins to what one rank would find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.network.attention import attend_reference
from model.network.operations import TorchOperations
from model.network.striped_attention import StripedTorchAttention
from model.network.stripes import Stripe, join_parts
from tests.model.network.test_attention import BLOCK, random_batch
from tests.support.thread_ranks import ThreadRank, as_ranks

CPU = torch.device("cpu")


class Alone:
    """One of several ranks, for a plan that asks nobody."""

    def __init__(self, stripe: Stripe) -> None:
        self.stripe = stripe

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def exchange(self, tensor: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


@given(
    count=st.sampled_from([1, 2, 3, 4, 8]),
    block=st.integers(1, 4),
    context=st.integers(1, 300),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
@settings(deadline=None)
def test_the_ranks_views_are_a_partition_of_a_sequence(count, block, context, share, seed):
    """Of each chunk of new tokens, of what each of them sees, and of slots."""
    block_size = block * count
    blocks = np.random.default_rng(seed).permutation(-(-context // block_size) + 3)
    positions = np.arange(context)
    slots = blocks[positions // block_size] * block_size + positions % block_size
    new = max(1, round(share * context))
    found = []
    for own in range(count):
        stripe = Stripe(count, own)
        mine = positions[positions % count == own]
        for position in {0, context - new, context - 1}:
            assert stripe.kept(position + 1) == (mine <= position).sum()
        assert np.array_equal(stripe.kept(positions + 1), (mine[None] <= positions[:, None]).sum(1))
        assert torch.equal(stripe.kept(torch.from_numpy(positions)), torch.from_numpy(stripe.kept(positions)))
        local = stripe.slots(slots)
        assert np.array_equal(local >= 0, positions % count == own)
        # token i of this rank lies where the same block table puts token i of a sequence with smaller blocks
        i = np.arange(len(mine))
        assert np.array_equal(local[mine], blocks[i // block] * block + i % block)
        found += [(int(slot), own) for slot in local[positions >= context - new] if slot >= 0]
    assert len(set(found)) == len(found) == new, "every new token is written once"


@given(
    sequences=st.lists(st.tuples(st.sampled_from([1, 1, 2, 5, 9]), st.integers(0, 13)), min_size=1, max_size=6),
    count=st.sampled_from([1, 2, 4]),
    at_once=st.sampled_from([1, 100, 1 << 24]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_parts_join_to_the_definition(sequences, count, at_once, seed):
    heads, width = 4, 8
    batch = random_batch(sequences, np.random.default_rng(seed))
    generator = torch.Generator().manual_seed(seed)
    blocks = int(batch.block_tables.max()) + 4
    # one block more: its last slot takes the tokens of other ranks
    cache = torch.randn(2, blocks + 1, BLOCK, 1, width, generator=generator)
    qkv = torch.randn(len(batch.tokens), heads + 2, width, generator=generator)
    queries = qkv[:, :heads]
    everyones = torch.stack(queries.chunk(count, dim=1))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.network.striped_attention.SCORES_AT_ONCE", at_once)
        for own in range(count):
            stripe = Stripe(count, own)
            kept = cache[:, :, own::count].contiguous()
            plan = StripedTorchAttention(heads, BLOCK // count, CPU, Alone(stripe)).plan(stripe.of(batch))
            TorchOperations().write(kept, qkv, plan.slots)
            found.append(plan.part.attend_part(everyones, kept, 0.3))
    TorchOperations().write(cache, qkv, torch.from_numpy(batch.slots))
    joined = [plan.part.join(parts, width) for parts in torch.stack(found, dim=1)]
    torch.testing.assert_close(torch.cat(joined, dim=1), attend_reference(queries, cache, batch, 0.3))


@pytest.mark.parametrize(("size", "count"), [(2, 2), (4, 4), (4, 2)])
def test_ranks_that_share_a_cache_find_what_one_would(size: int, count: int) -> None:
    """Each asks the others with its own heads; where there are two caches, neighbours share one."""
    heads, width = 8, 8
    batch = random_batch([(1, 6), (5, 3), (1, 0), (9, 0)], np.random.default_rng(1))
    generator = torch.Generator().manual_seed(1)
    blocks = int(batch.block_tables.max()) + 4
    cache = torch.randn(2, blocks + 1, BLOCK, 1, width, generator=generator)
    qkv = torch.randn(len(batch.tokens), heads + 2, width, generator=generator)

    def attended(group: ThreadRank) -> torch.Tensor:
        stripe = group.stripe
        kept = cache[:, :, stripe.own :: count].contiguous()
        plan = StripedTorchAttention(heads // size, BLOCK // count, CPU, group).plan(stripe.of(batch))
        own = qkv[:, :heads].chunk(size, dim=1)[group.rank]
        TorchOperations().write(kept, torch.cat([own, qkv[:, heads:]], dim=1), plan.slots)
        return plan.attend(own, kept, 0.3)

    found = torch.cat(as_ranks(size, count, attended), dim=1)
    TorchOperations().write(cache, qkv, torch.from_numpy(batch.slots))
    torch.testing.assert_close(found, attend_reference(qkv[:, :heads], cache, batch, 0.3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [8, 7])
def test_an_empty_part_weighs_nothing(dtype: torch.dtype, width: int) -> None:
    from model.network.stripes import empty_parts, logsumexps

    parts = empty_parts(torch.zeros(3, 1, 2, width, dtype=dtype)).zero_()
    parts[0, ..., :width], parts[1, ..., :width] = 2, -1
    logsumexps(parts)[:] = torch.tensor([1.0, 1.0, float("-inf")])[:, None, None]
    assert join_parts(parts, width).dtype == dtype
    assert torch.equal(join_parts(parts, width), torch.full((1, 2, width), 0.5, dtype=dtype))
    logsumexps(parts)[1] = float("-inf")
    assert torch.equal(join_parts(parts, width), torch.full((1, 2, width), 2.0, dtype=dtype))
