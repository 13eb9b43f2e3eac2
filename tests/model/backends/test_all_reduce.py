"""When ranks add up in our fused kernel: processes that interpret it, joined by gloo, one of which may be hindered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from model.backends import all_reduce
from model.backends.all_reduce import fused_all_reduce
from model.checkpoint.weights import Share
from model.config import ELSEWHERE, AllReduce, EngineConfig, ModelConfig
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.ranks import LoneRank
from tests.support.triton_process import TritonPrograms

pytest.importorskip("triton", reason="Triton has no build for this machine")

SHAPE = {"vocab_size": 64, "n_positions": 64, "n_embd": 64, "n_head": 4, "n_layer": 1, "n_inner": 64}

CHOICES = """
import json, logging, sys
import torch
from model.backends import all_reduce
from model.checkpoint.weights import Share
from model.config import EngineConfig, ModelConfig
from model.kernels import cuda_graphs, triton_all_reduce
from model.kernels.all_reduce_check import Comparison, random_norm
from model.network import symmetric_memory
from tests.support.forked_ranks import CPU, as_processes, yield_while_waiting
from tests.support.shared_memory import SharedMemory

config = EngineConfig(model="m", all_reduce="fused", tensor_parallel_size=2)
shape = ModelConfig(**json.loads(sys.argv[1]))

class Refused(SharedMemory):
    def __init__(self, count, device):
        raise RuntimeError("no such memory")

class OutOfReach(SharedMemory):
    def meet(self, group):
        super().meet(group)
        raise RuntimeError("no way to the other GPU")

class Deaf(SharedMemory):
    '''Nobody's signals arrive, and what it writes nobody sees.'''

    def meet(self, group):
        super().meet(group)
        self.own = torch.zeros_like(self.own)
        self.addresses[group.rank] = self.own.data_ptr()

class Confused(SharedMemory):
    '''Adds something.'''

    def meet(self, group):
        super().meet(group)
        real = triton_all_reduce.FusedAllReduce.add_norm
        def added(self, *arguments, **options):
            summed, normed = real(self, *arguments, **options)
            return summed + 0.3, normed
        triton_all_reduce.FusedAllReduce.add_norm = added

def no_kernel(*_, **__):
    raise ValueError("this does not compile")

def work(hindrance):
    def one(group):
        yield_while_waiting()
        said = []
        logger = logging.getLogger("model.backends.all_reduce")
        logger.setLevel(logging.INFO)
        logger.addHandler(handler := logging.Handler())
        handler.emit = lambda record: said.append(record.getMessage())
        all_reduce.PATIENCE = 40 if hindrance == "signals" else 1 << 30
        hindered = group.rank == 1
        if hindered and hindrance == "kernel":
            triton_all_reduce._all_reduce_add_norm = {(1,): no_kernel}
        memories = {"memory": Refused, "way": OutOfReach, "signals": Deaf, "sums": Confused}
        symmetric_memory.allocate = memories.get(hindrance, SharedMemory) if hindered else SharedMemory
        share = Share(shape, group, CPU, torch.float32)
        fused = all_reduce.fused_all_reduce(config, share, 1e-3)
        group.all_reduce(torch.zeros(1))  # still in step
        if fused is None:
            return [None, said]
        norm = random_norm(64, torch.float32, CPU)
        comparison = Comparison(fused, group, norm, torch.float32, CPU, 1 << 30)
        left = []
        cuda_graphs.leave_pool = lambda: left.append(1)
        errors = [comparison.replayed_error(2, record) for record in (eagerly, once)]
        return [fused.most_rows, said, *errors, len(left)]
    return one

def eagerly(run):
    return run

def once(run):
    out = run()
    return lambda: out

for hindrance in sys.argv[2:]:
    print(json.dumps(as_processes(2, work(hindrance))))
"""
REASONS = {
    "memory": "RuntimeError: no such memory",
    "way": "RuntimeError: no way to the other GPU",
    "kernel": "ValueError: this does not compile",
    "signals": "sums of 1 rows are off by nan",
    "sums": "sums of 1 rows are off by 0.3",
}


def test_it_is_used_where_it_is_right_on_all_ranks(triton_programs: TritonPrograms) -> None:
    """The rows are those that the processors of the smallest device run at once."""
    (found,) = triton_programs.run(CHOICES, json.dumps(SHAPE), "", interpret=True)
    for most_rows, said, replayed, once, left in found:
        assert most_rows == 8
        assert left == 2, "steps cannot be recorded into the pool of a recording that has gone"
        assert replayed < 1e-3 < 0.1 < once, "a recording that reads nothing anew is wrong"
        assert len(said) == 1
        assert said[0].startswith("steps of up to 8 rows add up over the ranks in our fused kernel")


@pytest.mark.parametrize("hindrance", REASONS)
def test_what_one_rank_cannot_have_none_has(hindrance: str, triton_programs: TritonPrograms) -> None:
    """Each says why: it, or that it is another rank's reason. They go on in step."""
    ((first, first_said), (second, second_said)) = triton_programs.run(
        CHOICES, json.dumps(SHAPE), hindrance, interpret=True
    )[0]
    assert first is None
    assert second is None
    assert len(first_said) == len(second_said) == 1
    assert REASONS[hindrance] in second_said[0]
    assert ("are off by" if hindrance == "signals" else ELSEWHERE) in first_said[0]


@pytest.mark.parametrize(("all_reduce", "size"), [("nccl", 2), ("fused", 1)])
def test_nothing_is_done_where_nobody_wants_it_or_has_anybody_to_add_up_with(
    all_reduce: AllReduce, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    share = Share(ModelConfig(**SHAPE), LoneRank(0, size), torch.device("cpu"), torch.float32)
    assert fused_all_reduce(EngineConfig(model="m", all_reduce=all_reduce), share, 1e-3) is None
    assert not caplog.records


def test_a_device_without_such_memory_does_without(caplog: pytest.LogCaptureFixture) -> None:
    share = Share(ModelConfig(**SHAPE), LoneRank(0, 2), torch.device("cpu"), torch.float32)
    assert fused_all_reduce(EngineConfig(model="m", all_reduce="fused"), share, 1e-3) is None
    assert "collectives instead of our fused kernel: RuntimeError: only GPUs have memory" in caplog.text


def test_ranks_that_share_a_gpu_do_without(caplog: pytest.LogCaptureFixture) -> None:
    group = LoneRank(0, 2)
    group.shares_gpu = True
    share = Share(ModelConfig(**SHAPE), group, torch.device("cuda", 0), torch.bfloat16)
    assert fused_all_reduce(EngineConfig(model="m", all_reduce="fused"), share, 1e-3) is None
    assert "ranks share a GPU" in caplog.text


def test_gpus_whose_words_not_both_may_change_do_without(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(own: str, others: set[str]) -> None:
        asked.append((own, others))
        raise RuntimeError("that needs NVLink")

    monkeypatch.setattr(all_reduce, "require_peer_atomics", refuse)
    group = LoneRank(1, 3)
    group.gpus = ["a", "b", "c"]
    share = Share(ModelConfig(**SHAPE), group, torch.device("cpu"), torch.bfloat16)
    assert fused_all_reduce(EngineConfig(model="m", all_reduce="fused"), share, 1e-3) is None
    assert asked == [("b", {"a", "c"})]
    assert "collectives instead of our fused kernel: RuntimeError: that needs NVLink" in caplog.text


TEXTS = """
import json, sys
import torch
from model.backends.cuda import CudaBackend
from model.network import symmetric_memory
from model.network.parallel import TensorParallel
from model.request import Request, SamplingParams
from tests.model.test_striped_cache import config_of, served
from tests.support.forked_ranks import as_processes, yield_while_waiting
from tests.support.shared_memory import SharedMemory

symmetric_memory.allocate = SharedMemory
params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
asked = [Request(str(n), [7, 8, 9, 7, 5] * n, params) for n in (1, 3)]  # of which drafts are made
plain = served(config_of(sys.argv[1]), TensorParallel(), asked)
options = {"attention": "triton", "max_num_seqs": 2, "max_num_batched_tokens": 16, "num_kv_blocks": 13}

def work(recorded, stripes):
    config = config_of(sys.argv[1], size, stripes, all_reduce="fused", async_scheduling=recorded,
                       speculative_tokens=3 if recorded else 0, **options)
    def one(group):
        yield_while_waiting()
        counts = {"fused": 0, "collective": 0}
        def prepare(runner):
            fused, reduce_ = runner.backend.network.operations.fused, runner.group.all_reduce
            add_norm = fused.add_norm
            def counted(*arguments):
                counts["fused"] += 1
                return add_norm(*arguments)
            def reduced(tensor):
                counts["collective"] += 1
                return reduce_(tensor)
            if recorded:
                runner.backend.record_decodes(runner.cache, runner.drawn, runner.max_model_len, lambda run: run)
                assert runner.backend.replays
                runner.num_kv_blocks -= 1
            fused.add_norm, runner.group.all_reduce = counted, reduced
        return [served(config, group, asked, prepare), counts]
    return one

for size, recorded, stripes in json.loads(sys.argv[2]):
    (texts, first), *others = as_processes(size, work(recorded, stripes), stripes)
    print(json.dumps([texts == plain, first, [counts == first for _, counts in others]]))
"""


@pytest.mark.parametrize(("size", "recorded", "stripes"), [(2, False, 1), (4, False, 1), (2, True, 2)])
def test_texts_are_those_of_one_rank(
    size: int, recorded: bool, stripes: int, tmp_path: Path, triton_programs: TritonPrograms
) -> None:
    """Steps of few rows add up in it, longer ones by collectives, on all ranks alike; in recorded steps, too."""
    model = random_model(n_embd=64, n_head=4, n_layer=1, n_inner=64, n_positions=64)
    directory = write_checkpoint(tmp_path / "model", model)
    groups = json.dumps([(size, recorded, stripes)])
    ((same, first, others),) = triton_programs.run(TEXTS, str(directory), groups, interpret=True)
    assert same
    assert others == [True] * (size - 1)
    assert first["fused"] > 10
    assert first["collective"] > 0
    if not recorded:  # of the two sums behind the embedding's, only those rows are left that want logits
        assert (first["fused"] - 2 * first["collective"]) % 3 == 0
