"""What two ranks measure of the fused all-reduce, interpreted, and what is made of their answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.engine.gpu.context import Context
from benchmarks.engine.gpu.fused_all_reduce import fused_all_reduce, judged
from benchmarks.engine.gpu.session import Skip, Wrong
from tests.support.triton_process import TritonPrograms

COMPARED = """
import json
import torch
from benchmarks.engine.gpu import fused_all_reduce
from model.network import symmetric_memory
from tests.support.forked_ranks import CPU, as_processes, yield_while_waiting
from tests.support.shared_memory import SharedMemory

fused_all_reduce.CALLS, fused_all_reduce.ROWS = 2, (1, 3, 64)

def work(group):
    yield_while_waiting()
    return fused_all_reduce.compared(group, CPU, torch.float32, "tiny")

print(json.dumps(as_processes(2, work)))
symmetric_memory.allocate = SharedMemory
print(json.dumps(as_processes(2, work)))
"""


def test_ranks_compare_and_time_both_ways(triton_programs: TritonPrograms) -> None:
    """Where there is such memory; else they say why not."""
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    without, found = triton_programs.run(COMPARED, interpret=True)
    for answers in without:
        with pytest.raises(Skip, match="only GPUs have memory"):
            judged(answers, 1e-3)
    for answers in found:
        assert [row[0] for row in answers["rows"]] == [1, 3], "as many rows as the kernel is for"
        metrics = judged(answers, 1e-3).metrics
        assert metrics["3 rows, error"] < 1e-3
        assert metrics["1 rows, collective_us"] > 0 < metrics["3 rows, fused_us"]


@pytest.mark.parametrize("error", [0.2, float("nan")])
def test_sums_that_are_off_are_wrong(error: float) -> None:
    answers: dict[str, Any] = {"reason": None, "shares_gpu": False, "rows": [[1, 0.0, 5.0, 4.0], [8, error, 6.0, 5.0]]}
    with pytest.raises(Wrong, match="does not give") as caught:
        judged(answers, 0.05)
    assert len(caught.value.found.rows) == 3
    assert caught.value.found.metrics["8 rows, fused_us"] == 5.0


def test_on_a_cpu_it_is_skipped() -> None:
    with pytest.raises(Skip, match="on GPUs alone"):
        fused_all_reduce(Context(torch.device("cpu"), "tiny"))
