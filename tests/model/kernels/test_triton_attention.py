"""The Triton kernels against the definition, run by Triton's interpreter where there is no GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.config import ConfigError, EngineConfig
from model.process.rank import Rank
from tests.model.network.test_attention import random_batch
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.triton_process import TritonPrograms

pytest.importorskip("triton", reason="Triton has no build for this machine")


CASES = """
import json, sys
import numpy as np, torch
from model.network.attention import attend_reference
from model.kernels import triton_check
from model.kernels.triton_attention import TritonPlan
from tests.model.network.test_attention import BLOCK, random_batch

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
for sequences, heads, width, splits in json.loads(sys.argv[1]):
    batch = random_batch([tuple(s) for s in sequences], np.random.default_rng(7))
    generator = torch.Generator().manual_seed(7)
    cache = torch.randn(2, int(batch.block_tables.max()) + 4, BLOCK, 1, width, generator=generator)
    queries = torch.randn(len(batch.tokens), heads, width, generator=generator)
    plan = TritonPlan.of(batch, heads, device, programs=64, splits=splits)
    found = plan.attend(queries.to(device), cache.to(device), width**-0.5).cpu()
    exact = attend_reference(queries, cache, batch, width**-0.5)
    assert torch.isfinite(found).all()
    print(json.dumps([float((found - exact).abs().max()), plan.tile.rows, plan.splits, len(plan.tile_sequences)]))

for sequences, heads, width, splits, stripes in json.loads(sys.argv[2]):
    batch = random_batch([tuple(s) for s in sequences], np.random.default_rng(7))
    generator = torch.Generator().manual_seed(7)
    cache = torch.randn(2, int(batch.block_tables.max()) + 4, BLOCK, 1, width, generator=generator)
    queries = torch.randn(len(batch.tokens), heads, width, generator=generator)
    plan = TritonPlan.of(batch, heads, device, programs=64, splits=splits)
    found = triton_check.attend_striped(plan, stripes, queries.to(device), cache.to(device), width**-0.5).cpu()
    assert torch.isfinite(found).all()
    print(json.dumps(float((found - attend_reference(queries, cache, batch, width**-0.5)).abs().max())))
"""

SHAPES = [
    ([(1, 0), (1, 90), (1, 13)], 6, 16),  # decodes; heads that fill no tile
    ([(1, 130), (1, 64), (1, 63)], 48, 16),  # StarCoder's heads; contexts that end with a tile of keys
    ([(1, 5), (9, 0), (40, 30)], 4, 16),  # a decode, a prompt, and a chunk behind what is cached
    ([(70, 70)], 12, 32),  # many tiles of one sequence
]
EQUAL = [(*shape, splits) for shape in SHAPES for splits in (1, 3)]
SPLIT = ([(1, 1100)], 4, 16, None)


STRIPED = [
    ([(1, 0), (1, 90), (1, 2)], 8, 16, 1, 2),  # a rank without a token of the first sequence
    ([(1, 0), (9, 0), (40, 30)], 4, 16, 1, 4),
    ([(1, 0), (1, 300), (5, 0)], 8, 16, 3, 4),  # parts of parts, some of which do not exist
]


@pytest.fixture(scope="module")
def answers(triton_programs: TritonPrograms) -> list[Any]:
    return triton_programs.run(CASES, json.dumps([*EQUAL, SPLIT]), json.dumps(STRIPED))


@pytest.fixture(scope="module")
def outcomes(answers: list[Any]) -> list[list[float]]:
    """The largest error of each case, the rows of a tile, parts of a context, and tiles."""
    return answers[: -len(STRIPED)]


@pytest.mark.parametrize("number", range(len(EQUAL)))
def test_equals_the_definition(outcomes: list[list[float]], number: int) -> None:
    sequences, heads, _, splits = EQUAL[number]
    error, rows, used, tiles = outcomes[number]
    assert error < 2e-5
    assert rows in (16, 32, 64)
    assert tiles == sum(-(-new * heads // rows) for new, _ in sequences)
    assert used == splits


def test_long_contexts_of_few_sequences_are_split(outcomes: list[list[float]]) -> None:
    from model.kernels.triton_attention import TritonPlan

    error, _, alone, _ = outcomes[-1]
    assert (error < 2e-5, alone) == (True, 4)
    many = random_batch([(1, 1100)] * 40, np.random.default_rng(7))
    assert TritonPlan.of(many, heads=4, device=torch.device("cpu"), programs=64).splits == 1


def test_parts_of_a_striped_cache_join_to_the_definition(answers: list[Any]) -> None:
    assert max(answers[-len(STRIPED) :]) < 2e-5


@given(
    lens=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    heads=st.sampled_from([1, 6, 16, 48]),
    rows=st.sampled_from([16, 32, 64, 128]),
)
def test_tiles_hold_each_row_of_each_sequence_once(lens: list[int], heads: int, rows: int) -> None:
    from model.kernels.triton_attention import cut, most_tiles

    sequences, firsts = cut(np.array(lens), heads, rows)
    held = [(s, first + i) for s, first in zip(sequences, firsts, strict=True) for i in range(rows)]
    wanted = [(s, row) for s, count in enumerate(lens) for row in range(count * heads)]
    assert [(s, row) for s, row in held if row < lens[s] * heads] == wanted
    assert len(sequences) <= most_tiles(sum(lens), len(lens), heads, rows)


WHOLE = """
import json, sys
from model.config import EngineConfig
from monitoring.metrics import DRAFT_TOKENS
from model.process.rank import Rank
from model.request import Request, SamplingParams

replayed, checked = [], []

def replay_eagerly(run):
    return lambda: replayed.append(1) or run()

def write(attention, recorded=False, drafts=0):
    rank = Rank(EngineConfig(model=sys.argv[1], device="cpu", dtype="float32", num_threads=1, num_kv_blocks=64,
                             attention=attention, max_num_batched_tokens=16, max_num_seqs=4,
                             async_scheduling=recorded, speculative_tokens=drafts))
    rank.load()
    if recorded:  # the last block is the one that belongs to nobody
        runner = rank._runner
        runner.num_kv_blocks -= 1
        runner.backend.record_decodes(runner.cache, runner.drawn, runner.max_model_len, replay_eagerly)
        runner.cache[:, :, -1] = float("nan")
        replayed.clear()
    engine = rank.engine()
    params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    for i in range(3):
        engine.add(Request(str(i), list(range(5, 12 + 6 * i)), params))
    answers = {}
    while engine.has_work():
        for output in engine.step():
            answers.setdefault(output.request_id, []).extend(output.token_ids)
    checked.append(int(engine.stats()[DRAFT_TOKENS]))
    return answers

ways = [write("torch"), write("triton"), write("triton", recorded=True)]
steps = len(replayed)
ways.append(write("triton", recorded=True, drafts=4))
print(json.dumps([ways, steps, len(replayed), checked]))
"""


def test_the_engine_writes_the_same_with_it(tmp_path: Path, triton_programs: TritonPrograms) -> None:
    model = random_model(n_embd=64, n_head=4, n_layer=1, n_inner=64)
    directory = write_checkpoint(tmp_path / "model", model)
    [(ways, replayed, replayed_with_drafts, checked)] = triton_programs.run(WHOLE, str(directory), interpret=True)
    assert ways == [ways[0]] * 4
    assert replayed >= 7
    assert replayed_with_drafts > 0
    assert checked[:3] == [0] * 3
    assert checked[3] > 2
    assert all(len(ids) == 8 for ids in ways[0].values())


CHECK = """
import torch
from model.kernels import triton_attention, triton_check

# the interpreter takes the bits of a bfloat16 for an integer
gpu = torch.cuda.is_available()
sizes = (256, 48, 128, 16, torch.bfloat16 if gpu else torch.float16, torch.device("cuda" if gpu else "cpu"))
print(triton_check.max_error(*sizes))
print(triton_check.max_error(256, 6, 128, 16, *sizes[4:], stripes=8))
triton_attention.combine_splits = type("Wrong", (), {"__getitem__": lambda *_: lambda out, *_, **__: out.zero_()})()
print(triton_check.max_error(*sizes))
"""


def test_the_check_at_the_start_tells_a_wrong_kernel_from_a_right_one(triton_programs: TritonPrograms) -> None:
    right, striped, wrong = triton_programs.run(CHECK)
    assert max(right, striped) < 0.05 < wrong


@pytest.mark.parametrize(
    ("shape", "reason"),
    [({}, "needs a GPU"), ({"multi_query": False}, "multi-query"), ({"n_embd": 96, "n_head": 4}, "head_dim=24")],
)
def test_where_it_cannot_run_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: dict[str, object], reason: str
) -> None:
    model = random_model(**{"n_embd": 64, "n_head": 4, "n_layer": 1, "n_inner": 64, **shape})
    directory = write_checkpoint(tmp_path / "model", model)
    if shape:
        monkeypatch.setattr("model.kernels.triton_attention.INTERPRETED", True)
    with pytest.raises(ConfigError, match=reason):
        Rank(EngineConfig(model=str(directory), device="cpu", attention="triton")).load()
