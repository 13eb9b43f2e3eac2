"""What ranks get from each other through a star is what PyTorch makes of all their tensors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from typing import TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.network.star import MOST_BYTES, Star, is_small

T = TypeVar("T")
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64)


@contextlib.contextmanager
def stars(size: int) -> Iterator[list[Star]]:
    pairs = [Pipe() for _ in range(size - 1)]
    everybody = [Star([ours for ours, _ in pairs], 0, size)]
    everybody += [Star([theirs], number, size) for number, (_, theirs) in enumerate(pairs, start=1)]
    try:
        yield everybody
    finally:
        for star in everybody:
            star.close()
            star.close()  # does no harm


def at_once(everybody: list[Star], call: Callable[[Star, torch.Tensor], T], tensors: list[torch.Tensor]) -> list[T]:
    with ThreadPoolExecutor(len(everybody)) as threads:
        return list(threads.map(call, everybody, tensors))


@given(
    size=st.integers(2, 6),
    shape=st.lists(st.integers(0, 9), max_size=3),
    dtype=st.sampled_from(TYPES),
    seed=st.integers(0, 99),
)
def test_everybody_gets_what_pytorch_makes_of_all(size: int, shape: list[int], dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    given = [(torch.randn(shape, generator=generator) * 100).to(dtype) for _ in range(size)]
    to_each = [(torch.randn(size, *shape, generator=generator) * 100).to(dtype) for _ in range(size)]
    everyones = torch.stack(given)
    with stars(size) as group:
        summed, from_first = [one.clone() for one in given], [one.clone() for one in given]
        at_once(group, Star.all_reduce, summed)
        at_once(group, Star.broadcast, from_first)
        gathered = at_once(group, Star.gather, given)
        gathered_by_all = at_once(group, Star.all_gather, given)
        received = at_once(group, Star.exchange, to_each)
    for one in summed:
        assert torch.equal(one, everyones.sum(0).to(dtype))
    for one in from_first:
        assert torch.equal(one, given[0])
    first, *others = gathered
    assert first is not None
    assert torch.equal(first, everyones)
    assert others == [None] * (size - 1)
    for number in range(size):
        assert torch.equal(gathered_by_all[number], everyones)
        assert torch.equal(received[number], torch.stack([tensors[number] for tensors in to_each]))


def test_half_precision_is_rounded_once() -> None:
    """Three in a row, and the second would be lost beside the first."""
    tensors = [torch.tensor([value], dtype=torch.bfloat16) for value in (256.0, 0.6, 0.6)]
    with stars(3) as group:
        at_once(group, Star.all_reduce, tensors)
    assert [one.item() for one in tensors] == [258.0] * 3


def test_more_than_a_socket_holds() -> None:
    tensors = [torch.full((3, 1 << 20), 1.0 + number) for number in range(3)]
    with stars(3) as group:
        at_once(group, Star.all_reduce, tensors)
    assert all(bool((one == 6.0).all()) for one in tensors)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_whoever_waits_for_one_that_has_gone_is_told(gone: int) -> None:
    """By the end of the first rank, where it is another that has gone."""
    with stars(3) as group, ThreadPoolExecutor(3) as threads:
        group[gone].close()
        calls = [threads.submit(star.all_reduce, torch.zeros(4)) for star in group if star is not group[gone]]
        if gone:
            with pytest.raises(ConnectionError):
                calls[0].result(60)
            group[0].close()
        for call in calls:
            with pytest.raises(ConnectionError):
                call.result(60)


def test_nothing_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with stars(4):
        assert len(os.listdir("/proc/self/fd")) == before + 6
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_small() -> None:
    most = torch.zeros(MOST_BYTES // 4)
    assert is_small(most)
    assert not is_small(torch.cat((most, most[:1])))
    assert is_small(torch.zeros(MOST_BYTES // 2, dtype=torch.bfloat16))
