"""Block tables that are kept from step to step, and the batch made of them, against a rebuild from nothing."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import engine as engine_module
from model.batch import Batch
from model.engine import Engine
from model.request import Request, SamplingParams
from model.scheduling.batching import build_batch
from model.scheduling.block_tables import BlockTables
from model.scheduling.sequence import Scheduled, Sequence
from monitoring.metrics import PREEMPTIONS
from tests.support.toy_engine import toy_engine


def sequence(prompt: list[int], blocks: list[int], computed: int = 0) -> Sequence:
    made = Sequence(Request("a", prompt), seed=0, arrival=0, limit=100)
    made.blocks, made.computed = blocks, computed
    return made


def naive_tables(sequences: list[Sequence]) -> list[list[int]]:
    width = max(len(s.blocks) for s in sequences)
    return [[*s.blocks, *[0] * (width - len(s.blocks))] for s in sequences]


def naive_batch(plan: list[Scheduled], block_size: int, broadcasts: int) -> Batch:
    """Token by token, from the sequences' own lists."""
    tokens, rows, positions, slots, wanted, drawn = [], [], [], [], [], []
    for scheduled in plan:
        one = scheduled.sequence
        known = [(token, -1) for token in one.tokens]
        awaited = [] if one.awaited is None else [(0, one.awaited)]
        drafted = [(token, -1) for token in scheduled.draft]
        chunk = [*known, *awaited][one.computed : one.computed + scheduled.count] + drafted
        for position, (token, row) in enumerate(chunk, start=one.computed):
            if one.wants_prompt_logprobs and position < one.prompt_length - 1:
                wanted.append(len(tokens))
            if scheduled.completes and position >= one.computed + scheduled.count - 1:
                drawn.append(len(tokens))
            tokens.append(token)
            rows.append(row)
            positions.append(position)
            slots.append(one.blocks[position // block_size] * block_size + position % block_size)
    counts = [s.count + len(s.draft) for s in plan]
    return Batch(
        *(np.array(numbers, dtype=np.int64) for numbers in (tokens, positions, slots, counts)),
        context_lens=np.array([s.sequence.computed + n for s, n in zip(plan, counts, strict=True)], dtype=np.int64),
        block_tables=np.array(naive_tables([s.sequence for s in plan]), dtype=np.int64),
        logit_rows=np.array(wanted + drawn, dtype=np.int64),
        num_decodes=counts.count(1),
        broadcasts=broadcasts,
        drawn_rows=np.array(rows, dtype=np.int64) if any(row >= 0 for row in rows) else None,
    )


def same(batch: Batch, expected: Batch) -> bool:
    return all(np.array_equal(found, expected.__dict__[name]) for name, found in batch.__dict__.items())


def checking_build(plan: list[Scheduled], tables: BlockTables, block_size: int, broadcasts: int) -> Batch:
    batch = build_batch(plan, tables, block_size, broadcasts)
    expected = naive_batch(plan, block_size, broadcasts)
    assert same(batch, expected), (batch, expected)
    return batch


def run_checked(engine: Engine, requests: list[Request], gaps: list[int], aborts: dict[int, str]) -> None:
    """Add a request every so many steps, and abort some, while every batch is compared."""
    steps = itertools.count()

    def step() -> None:
        engine.step()
        if (name := aborts.get(next(steps))) is not None:
            engine.abort(name)
        engine.check_integrity()

    with mock.patch.object(engine_module, "build_batch", checking_build):
        for request, gap in zip(requests, gaps, strict=True):
            engine.add(request)
            for _ in range(gap):
                step()
        while engine.has_work():
            step()


loads = st.lists(
    st.tuples(
        st.sampled_from([[1], [1, 2, 3], [7, 8]]),
        st.integers(1, 40),
        st.integers(1, 25),
        st.integers(0, 2),
        st.sampled_from([None, None, 1]),
        st.integers(0, 6),
    ),
    min_size=1,
    max_size=12,
)


@given(
    load=loads,
    aborts=st.dictionaries(st.integers(0, 60), st.integers(0, 11).map(str), max_size=4),
    num_blocks=st.integers(16, 40),
    max_num_seqs=st.integers(1, 6),
    step_tokens=st.integers(4, 40),
    caching=st.booleans(),
    speculation=st.sampled_from([0, 0, 5]),
    async_scheduling=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_any_plans_batch_equals_a_rebuild(
    load, aborts, num_blocks, max_num_seqs, step_tokens, caching, speculation, async_scheduling
):
    engine = toy_engine(
        num_blocks=num_blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=step_tokens,
        enable_prefix_caching=caching,
        speculative_tokens=speculation,
        async_scheduling=async_scheduling,
    )
    requests = [
        Request(
            str(number),
            (base * 40)[:length],
            SamplingParams(max_tokens=max_tokens, temperature=0, prompt_logprobs=wanted),
            priority,
        )
        for number, (base, length, max_tokens, priority, wanted, _) in enumerate(load)
    ]
    run_checked(engine, requests, [gap for *_, gap in load], aborts)


def test_sequences_that_are_preempted_while_they_await_a_token_are_rebuilt_too() -> None:
    engine = toy_engine(num_blocks=16, max_num_seqs=6, async_scheduling=True)
    params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
    requests = [Request(str(n), [n + 1] * 9, params, priority=n % 2) for n in range(6)]
    run_checked(engine, requests, [3] * 6, {25: "2"})
    assert engine.stats()[PREEMPTIONS] > 3


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("grow"), st.integers(0, 4), st.integers(1, 3)),
            st.tuples(st.just("release"), st.integers(0, 4), st.just(0)),
            st.tuples(st.just("read"), st.integers(1, 31), st.just(0)),
        ),
        max_size=60,
    )
)
def test_tables_follow_the_sequences_blocks_through_growth_and_release(
    operations: list[tuple[str, int, int]],
) -> None:
    """A sequence reads as its blocks say, whoever had its row before."""
    tables, blocks = BlockTables(rows=5, width=180), itertools.count(1)
    sequences = [sequence([1], [next(blocks)]) for _ in range(5)]
    for operation, number, count in operations:
        match operation:
            case "grow":
                sequences[number].blocks += itertools.islice(blocks, count)
            case "release":
                tables.release(sequences[number])
                sequences[number].blocks = [next(blocks)]
            case "read":
                chosen = [one for bit, one in enumerate(sequences) if number >> bit & 1]
                assert tables.of(chosen).tolist() == naive_tables(chosen)
        tables.check_integrity(sequences)


def test_a_batch_keeps_its_tables_when_the_sequences_go_on() -> None:
    """It may still be run when the next step is prepared."""
    tables, one = BlockTables(rows=1, width=3), sequence([1, 2, 3, 4, 5], [7, 9])
    batch = build_batch([Scheduled(one, 5)], tables, 4, 0)
    tables.release(one)
    one.blocks = [8]
    tables.of([one])
    assert batch.block_tables.tolist() == [[7, 9]]


@pytest.mark.parametrize(("awaited", "drawn_rows"), [(None, None), (3, [-1, -1, 3])])
def test_an_awaited_token_is_a_place_among_what_was_drawn(awaited: int | None, drawn_rows: list[int] | None) -> None:
    one = sequence([5, 6] if awaited is not None else [5, 6, 0], [2])
    one.awaited = awaited
    batch = build_batch([Scheduled(one, 3)], BlockTables(rows=1, width=1), 4, 1)
    assert batch.tokens.tolist() == [5, 6, 0]
    assert (batch.drawn_rows is not None) == (awaited is not None)
    assert (batch.drawn_rows if batch.drawn_rows is None else batch.drawn_rows.tolist()) == drawn_rows
    assert batch.logit_rows.tolist() == [2]
    first = build_batch([Scheduled(one, 2)], BlockTables(rows=1, width=1), 4, 0)
    assert first.drawn_rows is None, "a chunk that ends before it awaits nothing"
