"""The Triton kernels as a GPU gets them. The compiler needs none: the product's code launches them in `pretend`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
import torch

from model.kernels.linear_tiles import tiles
from tests.support import compiled_kernels
from tests.support.compiled_kernels import Note
from tests.support.triton_process import TritonPrograms

pytest.importorskip("triton", reason="Triton has no build for this machine")

pytestmark = pytest.mark.timeout(1500)  # a minute of the processor where nothing is remembered, and ten others want it

SHARED_MEMORY = {89: 99 << 10, 90: 227 << 10}
"""Bytes that a program may have, by the capabilities that all is compiled for; 8.0 and 8.6 get what 8.9 gets.

Source: CUDA C++ Programming Guide, table of technical specifications by capability; 163 KiB for 8.0.
"""

COMPILE = """
import json, sys, torch
from model.kernels import ahead_of_time, triton_linear
from model.kernels.linear_tiles import tiles
from tests.support.compiled_kernels import note_all

for capability in map(int, sys.argv[1:]):
    ahead_of_time.compile_all(capability)
    meant = every = note_all(capability, "of models")
    if capability == 89:  # with the least of both
        with ahead_of_time.pretend(capability):
            ahead_of_time.compile_attention(32, 16, torch.float32)
            x, weight, scale = torch.zeros(1, 512).half(), torch.zeros(16, 512, dtype=torch.int8), torch.zeros(16)
            for tile in tiles(torch.float16, torch.int8):
                triton_linear.multiply(x, weight, scale, None, 1, 1, tile=tile)
        every = note_all(capability)
    print(json.dumps([meant, every]))
"""

ANEW = 4
"""Of the models' kernels, those that each run compiles although they are remembered."""


@pytest.fixture(scope="module")
def remembered(request: pytest.FixtureRequest) -> dict[str, Note]:
    return {} if request.config.getoption("--record-kernels") else compiled_kernels.read()


@pytest.fixture(scope="module")
def anew(remembered: dict[str, Note]) -> Collection[str]:
    return compiled_kernels.chosen(remembered, "of models", ANEW) if remembered else []


@pytest.fixture(scope="module")
def cache(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    remembered: dict[str, Note],
    anew: Collection[str],
) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("triton")
    compiled_kernels.remember(directory, {key: note for key, note in remembered.items() if key not in anew})
    yield directory
    if request.config.getoption("--record-kernels"):
        compiled_kernels.write(compiled_kernels.noted(directory))


Compiled = dict[int, tuple[list[Note], list[Note]]]


@pytest.fixture(scope="module")
def compiled(cache: Path, triton_programs: TritonPrograms) -> Compiled:
    """Of each capability the variants in bfloat16, and all that were compiled for it."""
    lines = triton_programs.run(COMPILE, *map(str, SHARED_MEMORY), interpret=False, cache=cache)
    return dict(zip(SHARED_MEMORY, lines, strict=True))


@pytest.mark.last
def test_what_is_remembered_is_what_is_compiled(
    compiled: Compiled, cache: Path, remembered: dict[str, Note], anew: Collection[str]
) -> None:
    if not remembered:
        pytest.skip("no kernel is remembered by keys of this Python, Triton and machine")
    found = compiled_kernels.noted(cache)
    of_models = {key for key, note in remembered.items() if note["role"] == "of models"}
    assert of_models <= found.keys() <= remembered.keys(), "run pytest tests/model/kernels --record-kernels"
    for key in anew:
        assert {**found[key], "role": ""} == {**remembered[key], "role": ""}, "whichever program was first"


@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_every_variant_fits_the_registers_and_the_shared_memory(compiled: Compiled, capability: int) -> None:
    in_bfloat16, every = compiled[capability]
    for variants, spilled in ((in_bfloat16, 0), (every, 32)):
        for variant in variants:
            assert variant["stack"] <= spilled, f"registers do not suffice: {variant}"
            shared = variant["metadata"]["shared"]
            assert shared <= SHARED_MEMORY[capability], f"shared memory does not suffice: {variant}"


@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_no_more_variants_than_are_meant(compiled: Compiled, capability: int) -> None:
    """What is not among them is compiled while somebody waits for it."""
    kernels = [variant["kernel"] for variant in compiled[capability][0]]
    assert kernels.count("attend") == 3 * 2  # rows of a tile, split or whole
    assert kernels.count("combine_splits") == 1
    assert kernels.count("_gemv") == 2 * 3  # rows; with a bias, with GELU behind it, without
    assert kernels.count("_add_norm") == 4  # widths of models
    assert kernels.count("_all_reduce_add_norm") == 4 * 3  # ranks that share a model
    assert kernels.count("_write") == 1
    kinds = [torch.int8, torch.float8_e4m3fn]
    chosen = [tile for kind in kinds for tile in tiles(torch.bfloat16, kind)]
    assert kernels.count("_multiply") == len(chosen) * 2  # split or whole
    assert kernels.count("_reduce_splits") == any(not tile.joins for tile in chosen)
    assert kernels.count("_round_to_fp8") == 1
    assert kernels.count("_widen") == len(kinds)
    assert kernels.count("_choose") == 2  # vocabularies


@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_a_hopper_gpu_multiplies_by_its_own_instructions(compiled: Compiled, capability: int) -> None:
    kernels = [variant for variant in compiled[capability][0] if variant["kernel"] == "_multiply"]
    assert any(variant["wgmma"] for variant in kernels) == (capability == 90)
    for variant in kernels:
        assert variant["wgmma"] == variant["constants"]["SHUFFLED"], "inputs are in the order of other instructions"


A100 = """
import itertools, json
from model.kernels import ahead_of_time
from model.kernels.linear_tiles import tiles
from tests.support.compiled_kernels import note_all

for sizes in ("TILES", "EMBEDDINGS", "VOCABULARIES", "RANKS"):
    setattr(ahead_of_time, sizes, getattr(ahead_of_time, sizes)[:1])
ahead_of_time.tiles = lambda *types: tiles(*types)[:1]
ahead_of_time.compile_operations = lambda *sizes: None
for capability in (80, 89):
    ahead_of_time.compile_all(capability)
    print(json.dumps(note_all(capability)))
"""


def test_an_a100_gets_what_an_l4_gets(compiled: Compiled, cache: Path, triton_programs: TritonPrograms) -> None:
    """But for fp8: some kernels are compiled for both, and all are assembled for it."""
    a100, l4 = triton_programs.run(A100, interpret=False, cache=cache)
    for_both = {"_all_reduce_add_norm", "attend", "combine_splits", "_choose", "_multiply", "_widen"}
    assert {note["kernel"] for note in a100} == for_both
    assert {note["ptx"] for note in a100} <= {note["ptx"] for note in l4}
    stacks = [(note["kernel"], note["stack_on_a100"]) for note in compiled[89][0] if note["stack_on_a100"] is not None]
    kernels = [kernel for kernel, _ in stacks]
    assert kernels.count("_multiply") == 2 * len(tiles(torch.bfloat16, torch.int8))
    assert set(kernels) == {note["kernel"] for note in compiled[89][0]} - {"_round_to_fp8"}
    assert [kernel for kernel, stack in stacks if stack] == [], "registers do not suffice"


STRIPED = """
import json, torch
from model.kernels import ahead_of_time, triton_check
from tests.support.compiled_kernels import note_all

with ahead_of_time.pretend(90):
    triton_check.attention_error(6, 128, 16, torch.bfloat16, torch.device("cpu"), stripes=8)
print(json.dumps(note_all(90)))
"""


def test_the_kernels_of_a_striped_cache_fit(cache: Path, triton_programs: TritonPrograms) -> None:
    [variants] = triton_programs.run(STRIPED, interpret=False, cache=cache)
    kernels = [variant["kernel"] for variant in variants]
    # all heads of a token take a tile of 64 rows; split or whole
    assert [kernels.count(kernel) for kernel in ("attend", "combine_splits", "join_stripes")] == [2, 1, 1]
    for variant in variants:
        assert variant["stack"] == 0, f"registers do not suffice: {variant}"
        assert variant["metadata"]["shared"] <= SHARED_MEMORY[90]


ALL_REDUCE = """
import json, re, torch
from torch import nn
from model.kernels import ahead_of_time, compilations
from model.kernels.triton_all_reduce import FusedAllReduce

compilations.watch()
with ahead_of_time.pretend(90):
    ahead_of_time.compile_all_reduce(6144, 4, torch.bfloat16)
    before = compilations.count()
    memory = ahead_of_time._NoMemory(torch.zeros(4, dtype=torch.int64), torch.zeros(0))
    norm = nn.LayerNorm(6144, dtype=torch.bfloat16)
    for rank, rows, patience in ((1, 16, 0), (3, 41, 5_000_000)):
        x = torch.zeros(rows, 6144, dtype=torch.bfloat16)
        FusedAllReduce(memory, rank, 6144, torch.bfloat16).add_norm(x, x, norm, patience)
    (kernel,) = ahead_of_time.binaries(90)
meant = r"(?<![a-z])(bar\\.sync|(?:ld|st)\\.global[.\\w]*|atom[.\\w]*)"
print(json.dumps([before, compilations.count(), re.findall(meant, kernel.asm["ptx"])]))
"""


def test_ranks_signal_what_all_threads_have_written_and_none_reads_before_the_others_have(
    tmp_path: Path, triton_programs: TritonPrograms
) -> None:
    """The interpreter, in which one thread does all, would not notice. And one binary is all ranks'."""
    [(first, later, does)] = triton_programs.run(ALL_REDUCE, interpret=False, cache=tmp_path)
    assert first == later == 1
    released, acquired = (does.index(f"atom.global.sys.{order}") for order in ("release.exch.b32", "acquire.add.u32"))
    before, after = does[:released], does[acquired + 1 :]
    assert "bar.sync" in before[_last(before, "st.global.v4.b32") :]
    last_barrier = _last(after[: _first(after, "ld.global")], "bar.sync")
    assert last_barrier > 0
    loads = [one for one in after if one.startswith("ld.global")]
    assert loads == ["ld.global.v4.b32"] * (4 * 2), "16 bytes at once of each rank's 16 values a thread"


def _last(found: list[str], what: str) -> int:
    return len(found) - 1 - found[::-1].index(what)


def _first(found: list[str], what: str) -> int:
    return next(n for n, one in enumerate(found) if one.startswith(what))


STEPS = """
import json, sys
import numpy as np, torch, triton
from model.batch import Batch
from model.drawing import row_of
from model.kernels import ahead_of_time, compilations, draw_check, triton_check
from model.kernels.quantization import Quantizer
from model.kernels.triton_attention import TritonPlan
from model.kernels.triton_draw import TritonDraw
from tests.support.compiled_kernels import note_all

compilations.watch()
heads, steps, programs = int(sys.argv[1]), int(sys.argv[2]), 264
rng, cpu, width, block_size = np.random.default_rng(0), torch.device("cpu"), 16, 16
cache = torch.zeros(2, 8, block_size, 1, width, dtype=torch.bfloat16)
nothing = np.zeros(0, dtype=np.int64)

def random_step():
    # few or many sequences; decodes, chunks, or both
    decodes, chunks = rng.integers(0, rng.choice([3, 20, 20, 257])), rng.integers(0, 3)
    lens = np.append(np.ones(decodes, dtype=np.int64), rng.integers(2, rng.choice([4, 40, 300]), chunks))
    if not len(lens):
        lens = np.ones(1, dtype=np.int64)
    contexts = lens + rng.integers(0, rng.choice([2, 100, 1000, 8192 - 300]), len(lens))
    tables = np.zeros((len(lens), -(-contexts.max() // block_size)), dtype=np.int64)
    batch = Batch(nothing, nothing, nothing, lens, contexts, tables, nothing, num_decodes=int(decodes))
    return TritonPlan.of(batch, heads, cpu, programs), int(lens.sum())

def recorded_step(size):
    contexts, tables = torch.zeros(size, dtype=torch.int32), torch.zeros(size, 512, dtype=torch.int32)
    slots = torch.zeros(size, dtype=torch.int64)
    return TritonPlan.of_decodes(slots, contexts, tables, heads, programs, 8192), size

with ahead_of_time.pretend(90):
    triton_check.max_error(heads * width, heads, width, block_size, torch.bfloat16, cpu)
    quantizer = Quantizer("int8", cpu, torch.bfloat16, 1 << 13)
    bias = torch.zeros(48, dtype=torch.bfloat16)
    layers = [quantizer(torch.randn(48, 256), bias), quantizer(torch.randn(4096, 256), None)]
    for layer in layers:
        quantizer.compile(layer)
    vocabularies = (1000, 1001)  # rows of the second do not all begin where 16 bytes can be read at once
    for vocabulary in vocabularies:
        draw_check.fault(vocabulary, cpu, rows=8)
    logits = {vocabulary: torch.zeros(300, vocabulary) for vocabulary in vocabularies}
    at_start = compilations.count()
    plans, seen = [recorded_step(size) for size in range(1, 65)], set()
    for number in range(steps):
        plan, tokens = plans[number] if number < len(plans) else random_step()
        seen.add((plan.tile.rows, plan.splits))
        plan.attend(torch.zeros(tokens, heads, width, dtype=torch.bfloat16), cache, 1.0)
        if number % 5 == 0:
            first, last = sorted(rng.integers(0, 301, 2))
            shares = rng.random(3).tolist()
            asked = row_of(float(rng.choice([0, 0.8])), int(rng.integers(0, 60)), *shares)
            TritonDraw()(logits[vocabularies[number % 2]][first : last + 1], np.array([asked] * (last + 1 - first)))
        if number % 20 == 0:
            layers[number // 20 % 2](torch.zeros(int(rng.integers(1, 300)), 256, dtype=torch.bfloat16))
    print(json.dumps([at_start, compilations.count() - at_start, len(seen)]))
note_all(90)
"""


@pytest.mark.parametrize("heads", [48, 6])
def test_nothing_is_compiled_after_the_start(heads: int, cache: Path, triton_programs: TritonPrograms) -> None:
    """Alone, and as one of eight ranks."""
    [(at_start, later, shapes)] = triton_programs.run(STEPS, str(heads), "10000", interpret=False, cache=cache)
    assert shapes > 15, "the steps are too much alike"
    assert at_start > 8
    assert later == 0


FROM_THE_IMAGE = """
import json, sys, torch, triton
from pathlib import Path
from model.kernels import ahead_of_time, draw_check, shipped_cache, triton_check
from model.kernels.quantization import Quantizer

own = triton.knobs.cache.manager_class
shipped_cache.DIRECTORY = Path(sys.argv[1])
triton.knobs.cache.manager_class = shipped_cache.ShippedCache
hits = []
triton.knobs.compilation.listener = lambda cache_hit, **_: hits.append(cache_hit)
cpu = torch.device("cpu")
with ahead_of_time.pretend(90):
    triton_check.max_error(6144, 48, 128, 16, torch.bfloat16, cpu)
    draw_check.fault(49152, cpu, rows=8)
    for kind in ("int8", "fp8"):
        quantizer = Quantizer(kind, cpu, torch.bfloat16, 1 << 14)
        for bias in (None, torch.zeros(48).bfloat16()):
            quantizer.compile(quantizer(torch.randn(48, 256), bias))
    print(json.dumps([hits.count(True), hits.count(False)]))
    hits.clear()
    triton.knobs.cache.manager_class = own
    draw_check.fault(49280, cpu, rows=8)
print(json.dumps([hits.count(True), hits.count(False)]))
"""


def test_what_an_image_brings_is_not_compiled_again(
    compiled: Compiled, cache: Path, tmp_path: Path, triton_programs: TritonPrograms
) -> None:
    """By a process like those that serve, whose own cache is empty; what it brings is not written to."""
    before = sorted(cache.rglob("*"))
    brought, without = triton_programs.run(FROM_THE_IMAGE, str(cache), interpret=False, cache=tmp_path)
    found, missed = brought
    assert found > 10
    assert missed == 0
    assert sorted(cache.rglob("*")) == before
    found, missed = without
    assert found == 0 < missed


FAR_AWAY = """
import json, torch
import numpy as np
from model.batch import Batch
from model.kernels.triton_attention import TritonPlan
from model.network.attention import attend_reference

# 2^31 values and a few, of which only the pages that are written take memory
block_size, width = 16, 16
blocks = (1 << 31) // (block_size * width) + 8
cache = torch.empty(2, blocks, block_size, 1, width, dtype=torch.float16)
generator = torch.Generator().manual_seed(0)
table = np.array([[blocks - 1, 3, blocks - 2]])
for block in table[0]:
    cache[:, block] = torch.randn(2, block_size, 1, width, generator=generator)
nothing, one = np.zeros(0, dtype=np.int64), np.ones(1, dtype=np.int64)
batch = Batch(nothing, nothing, nothing, one, one * 45, table, nothing, num_decodes=1)
queries = torch.randn(1, 4, width, generator=generator).half()
found = TritonPlan.of(batch, 4, torch.device("cpu"), 1, splits=1).attend(queries, cache, width**-0.5)
exact = attend_reference(queries, cache, batch, width**-0.5)
print(json.dumps(float((found - exact).abs().max())))
"""


def test_a_cache_of_more_values_than_32_bits_count(triton_programs: TritonPrograms) -> None:
    [error] = triton_programs.run(FAR_AWAY, interpret=True)
    assert error < 2e-3
