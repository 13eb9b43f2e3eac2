"""The fast attention equals the definition on random batches of decodes and prefill chunks."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batch import Batch
from model.network.attention import attend_reference
from model.network.operations import TorchOperations
from model.network.sdpa_attention import SdpaAttention

BLOCK = 4


def random_batch(sequences: list[tuple[int, int]], rng: np.random.Generator) -> Batch:
    """sequences: (new tokens, tokens before); decodes first. Blocks are scattered over the cache."""
    sequences = sorted(sequences, key=lambda s: s[0] > 1)
    counts = np.array([new for new, _ in sequences])
    contexts = np.array([new + before for new, before in sequences])
    needed = [-(-int(c) // BLOCK) for c in contexts]
    free = rng.permutation(sum(needed) + 3).tolist()
    tables = np.zeros((len(sequences), max(needed)), dtype=np.int64)
    slots = []
    for row, count in enumerate(needed):
        tables[row, :count] = [free.pop() for _ in range(count)]
        positions = np.arange(contexts[row] - counts[row], contexts[row])
        slots.append(tables[row, positions // BLOCK] * BLOCK + positions % BLOCK)
    total = int(counts.sum())
    return Batch(
        tokens=np.zeros(total, dtype=np.int64),
        positions=np.zeros(total, dtype=np.int64),
        slots=np.concatenate(slots),
        query_lens=counts,
        context_lens=contexts,
        block_tables=tables,
        logit_rows=np.arange(0),
        num_decodes=int((counts == 1).sum()),
    )


@given(
    sequences=st.lists(st.tuples(st.sampled_from([1, 1, 2, 5, 9]), st.integers(0, 13)), min_size=1, max_size=6),
    heads=st.sampled_from([(4, 1), (6, 1), (4, 4)]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_definition(sequences, heads, seed):
    queries_heads, kv_heads = heads
    batch = random_batch(sequences, np.random.default_rng(seed))
    generator = torch.Generator().manual_seed(seed)
    blocks = int(batch.block_tables.max()) + 4
    cache = torch.randn(2, blocks, BLOCK, kv_heads, 8, generator=generator)
    total = len(batch.tokens)
    qkv = torch.randn(total, queries_heads + 2 * kv_heads, 8, generator=generator)
    queries, keys, values = qkv.split([queries_heads, kv_heads, kv_heads], dim=1)
    plan = SdpaAttention(BLOCK, torch.device("cpu"), torch.float32).plan(batch)
    TorchOperations().write(cache, qkv, plan.slots)
    for row, slot in enumerate(batch.slots):
        assert torch.equal(cache[0, slot // BLOCK, slot % BLOCK], keys[row])
        assert torch.equal(cache[1, slot // BLOCK, slot % BLOCK], values[row])
    torch.testing.assert_close(plan.attend(queries, cache, 0.3), attend_reference(queries, cache, batch, 0.3))
