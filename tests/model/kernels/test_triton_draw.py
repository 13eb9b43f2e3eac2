"""Triton's draws against the definition, and against plain Python's; interpreted where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from tests.support.triton_process import TritonPrograms

pytest.importorskip("triton", reason="Triton has no build for this machine")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOCABULARIES = [1, 50, 1001, 5000] + ([49152, 49280] if DEVICE == "cuda" else [])
ROWS = 120 if DEVICE == "cuda" else 20
"""Of a vocabulary: with 111 all kinds of them are there; the interpreter takes 20 ms for one."""

AGAINST_THE_DEFINITION = """
import json, sys, torch
from model.device import to_device
from model.drawing import choose
from model.kernels.draw_check import possible, random_rows
from model.kernels.triton_draw import TritonDraw

device = torch.device(sys.argv[1])
rows = int(sys.argv[2])
for vocabulary in map(int, sys.argv[3:]):
    logits, table = random_rows(rows, vocabulary)
    logits = logits.to(device)
    tokens, best = TritonDraw()(logits, table)
    exact, largest = choose(logits, table)
    alone = torch.cat([TritonDraw()(logits[i : i + 1], table[i : i + 1])[0] for i in range(0, rows, 7)])
    print(json.dumps([
        torch.equal(best.nan_to_num(7e30), largest.nan_to_num(7e30)),
        float(possible(logits, table, tokens).double().mean()),
        float((tokens == exact).double()[:-2].mean()),
        torch.equal(tokens[::7], alone),
        torch.equal(TritonDraw()(logits, table)[0], tokens),
    ]))
"""


def test_equals_the_definition(triton_programs: TritonPrograms) -> None:
    for vocabulary, (best, possible, equal, alone, again) in zip(
        VOCABULARIES, triton_programs.run(AGAINST_THE_DEFINITION, DEVICE, *map(str, (ROWS, *VOCABULARIES))), strict=True
    ):
        assert best, vocabulary
        assert possible == 1, vocabulary
        assert equal > 0.9, "ties are not that frequent"
        assert alone, "a row depends on its neighbours"
        assert again, "another run draws other tokens"


AGAINST_PLAIN_PYTHON = """
import math
import numpy as np, torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model.drawing import row_of
from model.kernels import triton_draw
from tests.model.test_drawing import possible, rows

triton_draw.CHUNKS, triton_draw.LANES = 4, 4  # so that few tokens are several chunks, read in several steps

@given(st.lists(rows(), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None, database=None, derandomize=True)
def right(batch):
    logits = torch.full((len(batch), max(len(row) for row, _ in batch)), -math.inf)
    for i, (row, _) in enumerate(batch):
        logits[i, : len(row)] = torch.tensor(row)
    tokens, best = triton_draw.TritonDraw()(logits, np.array([row_of(*asked) for _, asked in batch]))
    assert best.tolist() == logits.amax(1).tolist()
    for i, (_, asked) in enumerate(batch):
        assert int(tokens[i]) in possible(logits[i].tolist(), *asked), (logits[i].tolist(), asked)

right()
"""


def test_a_draw_is_the_token_on_which_the_uniform_number_falls(triton_programs: TritonPrograms) -> None:
    assert triton_programs.run(AGAINST_PLAIN_PYTHON, interpret=True) == []


CHECK = """
import json, sys, torch
from model.kernels import draw_check, triton_draw

def fault():
    return draw_check.fault(301, torch.device(sys.argv[1]), rows=9)

print(json.dumps(fault()))
kernel = triton_draw.TritonDraw.__call__
for wrong in (
    lambda tokens, best: (tokens.where(torch.arange(len(tokens), device=tokens.device) != 5, 0), best),
    lambda tokens, best: (tokens, best + 1),
    lambda tokens, best: (tokens - 302, best),
):
    triton_draw.TritonDraw.__call__ = lambda self, *rows, wrong=wrong: wrong(*kernel(self, *rows))
    print(json.dumps(fault()))
"""


def test_the_check_at_the_start_tells_a_wrong_kernel_from_a_right_one(triton_programs: TritonPrograms) -> None:
    right, token, best, outside = triton_programs.run(CHECK, DEVICE)
    assert right is None
    assert "other tokens than the definition in 1 of 9 rows" in token
    assert best == "does not find the largest logits"
    assert "in 9 of 9 rows" in outside


ENGINE = """
import json, sys
from model.config import EngineConfig
from model.kernels.triton_draw import TritonDraw
from model.process.rank import Rank
from model.request import Request, SamplingParams

def write(attention, speculative_tokens):
    rank = Rank(EngineConfig(
        model=sys.argv[1], device="cpu", dtype="float32", cpu_kernels="torch", num_kv_blocks=64, block_size=4,
        max_model_len=32, attention=attention, speculative_tokens=speculative_tokens,
    ))
    rank.load()
    engine = rank.engine()
    assert isinstance(engine.executor.choose_tokens, TritonDraw) == (attention == "triton")
    for i, asked in enumerate(({"top_p": 0.9}, {"top_k": 5, "temperature": 0.7}, {"temperature": 0.0}, {"min_p": 0.1})):
        params = SamplingParams(**{"max_tokens": 8, "ignore_eos": True, "seed": i, "presence_penalty": i / 9, **asked})
        engine.add(Request(str(i), [5, 6, 7] * 3 + [i], params))
    answers = {}
    while engine.has_work():
        for output in engine.step():
            answers.setdefault(output.request_id, []).extend(output.token_ids)
    return answers

print(json.dumps([write("torch", 0), write("triton", 0), write("triton", 3)]))
"""


def test_the_engine_writes_the_same_with_it(tmp_path, triton_programs: TritonPrograms) -> None:
    from tests.support.checkpoints import random_model, write_checkpoint

    model = random_model(n_embd=64, n_head=4, n_layer=1, n_inner=64)
    directory = write_checkpoint(tmp_path / "model", model)
    [(plain, ours, with_drafts)] = triton_programs.run(ENGINE, str(directory), interpret=True)
    assert plain == ours == with_drafts
    assert all(len(ids) == 8 for ids in plain.values())
