"""The fused all-reduce, interpreted: processes share memory and wait for each other; ranks take turns by chance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.kernels.all_reduce_layout import MOST_READ, MOST_ROWS, PLACES, Layout
from tests.support.triton_process import TritonPrograms

pytest.importorskip("triton", reason="Triton has no build for this machine")

TOGETHER = """
import json, random, sys
import torch
from torch import nn
from torch.nn import functional as F
from model.kernels.all_reduce_layout import Layout
from model.kernels.triton_all_reduce import FusedAllReduce
from tests.support.forked_ranks import CPU, as_processes, yield_while_waiting
from tests.support.shared_memory import SharedMemory

def work(size, width, dtype, calls, begin):
    def one(group):
        yield_while_waiting(random.Random(group.rank), share=0.02, longest_s=0.003)
        memory = SharedMemory(Layout(size, width, dtype.itemsize).bytes, CPU)
        memory.meet(group)
        memory.own[Layout(size, width, dtype.itemsize).signals :].view(torch.int32).fill_(begin)
        fused = FusedAllReduce(memory, group.rank, width, dtype)
        fused._calls.fill_(begin)
        group.all_reduce(torch.zeros(1))
        norm, rows_of = nn.LayerNorm(width, eps=1e-3, dtype=dtype), random.Random(size)
        worst, bits = 0.0, 0
        for number in range(calls):
            noise = torch.Generator().manual_seed(number)
            rows = rows_of.choice([1, 1, 1, 2, 3])
            x, parts = (3 * torch.randn(shape, generator=noise) for shape in ((rows, width), (size, rows, width)))
            norm.weight.data, norm.bias.data = torch.randn(2, width, generator=noise).to(dtype)
            x, parts = x.to(dtype), parts.to(dtype)
            part = parts[group.rank].clone()
            found = fused.add_norm(x, part, norm)
            assert torch.equal(part, parts[group.rank]) and fused.holds(part)
            total = x.double() + parts.double().sum(0)
            rounded = total.to(dtype).double() if dtype == torch.float16 else found[0].double()
            exact = F.layer_norm(rounded, (width,), norm.weight.double(), norm.bias.double(), 1e-3)
            errors = [((ours.double() - theirs).abs() / (1 + theirs.abs())).max() for ours, theirs in
                      zip(found, (total, exact))]
            worst = max(worst, *map(float, errors))
            for made in found:
                bits = (bits * 31 + int(made.contiguous().view(torch.uint8).long().mul(
                    torch.arange(1, 1 + made.nbytes).view(rows, -1)).sum())) % (1 << 61)
        return [worst, bits, fused._calls.tolist()[:4]]
    return one

for size, width, dtype, calls, begin in json.loads(sys.argv[1]):
    print(json.dumps(as_processes(size, work(size, width, getattr(torch, dtype), calls, begin))))
"""
WRAPS = 2**31 - 3
"""Calls after which a count of 32 bits begins anew in a moment."""
GROUPS = [
    (2, 48, "float32", 60, 0),
    (2, 17, "float32", 12, WRAPS),
    (3, 64, "float16", 24, 0),
    (4, 40, "float32", 20, WRAPS),
    (8, 32, "float32", 8, 0),
]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[0]} ranks from {group[4]}")
def test_processes_that_wait_for_each_other_get_the_same_sums(
    group: tuple[int, int, str, int, int], triton_programs: TritonPrograms
) -> None:
    """One after the other without a pause, some of which dawdle now and then; each equals the sum in float64."""
    size, _, dtype, calls, begin = group
    (ranks,) = triton_programs.run(TOGETHER, json.dumps([group]), interpret=True)
    assert len(ranks) == size
    worst = max(error for error, _, _ in ranks)
    assert worst < (2e-3 if dtype == "float16" else 1e-5)
    assert len({bits for _, bits, _ in ranks}) == 1, "ranks have other bits"
    counts = ranks[0][2]
    assert all(counted == counts for _, _, counted in ranks)
    assert (counts[0] - begin - calls) % 2**32 == 0
    assert counts[3] == begin, "a row that no call had"


BY_CHANCE = """
import importlib.util, json, random, sys, threading
from pathlib import Path
import torch
from torch import nn
from triton.runtime import interpreter
from model.kernels import triton_all_reduce
from model.kernels.all_reduce_layout import Layout

WIDTH = 4
builder = interpreter.interpreter_builder

class Turns:
    '''Ranks are threads, of which one runs; whenever it is about to use memory, chance says who goes on.'''

    def __init__(self, size, chance, stays):
        self.chance, self.stays = chance, stays
        self.alive, self.turns = list(range(size)), [threading.Semaphore(0) for _ in range(size)]
        self.now = 0

    def give(self, rank):
        if self.chance.random() < self.stays:
            return
        other = self.chance.choice(self.alive)
        if other != rank:
            grid = builder.grid_dim, builder.grid_idx
            self.now = other
            self.turns[other].release()
            self.turns[rank].acquire()
            builder.grid_dim, builder.grid_idx = grid

    def end(self, rank):
        self.alive.remove(rank)
        if self.alive:
            self.now = self.chance.choice(self.alive)
            self.turns[self.now].release()

turns = None
for name in ("create_masked_load", "create_masked_store", "create_atomic_rmw"):
    def wrapped(self, *arguments, real=getattr(interpreter.InterpreterBuilder, name), **options):
        turns.give(turns.now)
        return real(self, *arguments, **options)
    setattr(interpreter.InterpreterBuilder, name, wrapped)

class Memory:
    def __init__(self, everyones, rank):
        self.own, self.addresses = everyones[rank], torch.tensor([one.data_ptr() for one in everyones])

def wrong(module, size, seed, calls):
    '''Rows that are not the sum, of some calls with as many rows as chance says.'''
    global turns
    chance = random.Random(seed)
    turns = Turns(size, chance, stays=chance.choice([0.0, 0.5, 0.9]))
    everyones = [torch.zeros(Layout(size, WIDTH, 4).bytes, dtype=torch.uint8) for _ in range(size)]
    rows = [chance.choice([1, 1, 2]) for _ in range(calls)]
    noise = torch.Generator().manual_seed(seed)
    parts = [torch.randn(size, count, WIDTH, generator=noise) for count in rows]
    found, failed = [[] for _ in range(size)], []

    def run(rank):
        turns.turns[rank].acquire()
        try:
            fused = module.FusedAllReduce(Memory(everyones, rank), rank, WIDTH, torch.float32)
            for some in parts:
                x = torch.zeros(some.shape[1:])
                found[rank].append(fused.add_norm(x, some[rank], nn.LayerNorm(WIDTH))[0])
        except BaseException as error:
            failed.append(repr(error))
        finally:
            turns.end(rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    turns.now = 0
    turns.turns[0].release()
    for thread in threads:
        thread.join()
    assert not failed, failed
    return sum(int((~torch.isclose(ours, some.sum(0), atol=1e-5).all(1)).sum())
               for mine in found for ours, some in zip(mine, parts))

def with_fault(right, fault):
    text = Path(triton_all_reduce.__file__).read_text()
    assert right in text
    copy = Path(sys.argv[3]) / f"{len(fault)}.py"
    copy.write_text(text.replace(right, fault))
    spec = importlib.util.spec_from_file_location(copy.stem, copy)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

seeds, calls = map(int, sys.argv[1:3])
print(json.dumps([wrong(triton_all_reduce, 2 + seed % 3 // 2, seed, calls) for seed in range(seeds)]))
for fault in json.loads(sys.argv[4]):
    module = with_fault(*fault)
    print(json.dumps(any(wrong(module, 2, seed, calls) for seed in range(seeds))))
"""


FAULTS = {
    "one place": ("PLACES=PLACES", "PLACES=1"),
    "a signal of the call before suffices": ("(signalled - call < 0)", "(signalled - call < -1)"),
    "nobody's own count": ("tl.store(calls + row, call)", "tl.store(calls, call)"),
}


def test_in_whatever_order_ranks_run_nothing_is_read_too_early_or_overwritten(
    triton_programs: TritonPrograms, tmp_path: Path
) -> None:
    """And with a fault in it, it is."""
    faults = json.dumps(list(FAULTS.values()))
    sound, *noticed = triton_programs.run(BY_CHANCE, "12", "5", str(tmp_path), faults, interpret=True)
    assert not any(sound)
    assert dict(zip(FAULTS, noticed, strict=True)) == dict.fromkeys(FAULTS, True)


GONE = """
import json
import torch
from torch import nn
from model.kernels.all_reduce_layout import Layout
from model.kernels.triton_all_reduce import FusedAllReduce
from tests.support.forked_ranks import CPU, as_processes
from tests.support.shared_memory import SharedMemory

def work(group):
    memory = SharedMemory(Layout(2, 8, 4).bytes, CPU)
    memory.meet(group)
    if group.rank:
        return None
    fused = FusedAllReduce(memory, 0, 8, torch.float32)
    summed, normed = fused.add_norm(torch.zeros(2, 8), torch.ones(2, 8), nn.LayerNorm(8), patience=5)
    return [bool(summed.isnan().all()), bool(normed.isnan().all())]

print(json.dumps(as_processes(2, work)[0]))
"""


def test_a_sum_that_lacks_somebodys_part_is_no_number(triton_programs: TritonPrograms) -> None:
    assert triton_programs.run(GONE, interpret=True) == [[True, True]]


@given(ranks=st.integers(2, 16), width=st.integers(1, 9000), bytes_per_value=st.sampled_from([2, 4]))
def test_places_do_not_overlap_and_signals_come_behind_them(ranks: int, width: int, bytes_per_value: int) -> None:
    layout = Layout(ranks, width, bytes_per_value)
    assert 1 <= layout.rows <= MOST_ROWS
    assert layout.rows * width * ranks * bytes_per_value <= MOST_READ or layout.rows == 1
    values = PLACES * layout.rows * width * bytes_per_value
    assert values <= layout.signals < values + 128
    assert layout.signals % 128 == 0
    assert layout.bytes == layout.signals + 4 * layout.rows * ranks


def test_rows_of_starcoder() -> None:
    assert [Layout(ranks, 6144, 2).rows for ranks in (2, 4, 8)] == [64, 48, 24], "as recorded steps have them"
