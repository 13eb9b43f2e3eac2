"""What the CUDA backend is made of, by its model, its group and its configuration, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from model.backends import cuda
from model.backends.cuda import CudaBackend
from model.checkpoint.weights import Share, load_weights
from model.config import EngineConfig, ModelConfig
from model.limits import StepLimits
from model.network.layers import Linear
from model.network.operations import TorchOperations
from model.network.parallel import TensorParallel
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.ranks import LoneRank

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SHAPE = {"vocab_size": 64, "n_positions": 64, "n_embd": 64, "n_head": 4, "n_layer": 1, "n_inner": 64}


class Attention:
    """In the place of Triton's."""


@pytest.fixture(autouse=True)
def _no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_triton_attention", lambda share: Attention())
    monkeypatch.setattr(cuda, "_operations", lambda share, config: TorchOperations())
    monkeypatch.setattr(cuda, "_form", lambda share, quantization: Linear)
    monkeypatch.setattr(cuda, "_compilations", lambda: lambda: 0)


def share_of(device: torch.device = GPU, group: TensorParallel | None = None, tied: bool = True) -> Share:
    model = ModelConfig(**SHAPE, tie_word_embeddings=tied)
    return Share(model, group or TensorParallel(), device, torch.bfloat16)


def made(share: Share | None = None, attention: Any = "triton", **options: Any) -> CudaBackend:
    return CudaBackend(share or share_of(), EngineConfig(model="m", **options), attention, lambda place: 0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("quantization", ["none", "int8", "fp8"])
def test_a_tied_head_is_copied_where_it_is_rounded(tied: bool, quantization: str) -> None:
    """The embedding is not."""
    backend = made(share_of(tied=tied), quantization=quantization)
    assert backend.head_is_copied is (tied and quantization != "none")
    assert backend.head_dim == 16


@pytest.mark.parametrize(
    ("device", "attention", "options", "records"),
    [
        (GPU, "triton", {}, True),
        (GPU, "triton", {"cuda_graphs": False}, False),
        (GPU, "torch", {}, False),
        (CPU, "triton", {}, False),
    ],
)
def test_steps_are_recorded_on_a_gpu_with_our_attention_unless_nobody_wants_it(
    device: torch.device, attention: str, options: dict[str, Any], records: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = made(share_of(device), attention, **options)
    assert backend.spare_blocks == int(records), "for the rows that fill recorded steps"
    cache, drawn, asked = torch.empty(0), torch.empty(0), list[tuple[Any, ...]]()
    monkeypatch.setattr(backend, "record_decodes", lambda *arguments: asked.append(arguments))
    backend.warm_up(cache, drawn, 99)
    assert [(one[0] is cache, one[1] is drawn, one[2]) for one in asked] == [(True, True, 99)] * records
    assert not backend.replays


def test_pytorchs_attention_to_a_striped_cache_has_room_for_others_tokens() -> None:
    group = TensorParallel(1, 2, stripes=2)
    assert made(share_of(group=group), "torch", block_size=32).spare_blocks == 1
    assert made(share_of(), "torch").spare_blocks == 0


@pytest.mark.parametrize("stripes", [1, 2])
def test_recorded_steps_are_as_large_as_steps_may_be(stripes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: dict[str, dict[str, Any]] = {}

    class Graphs:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            recorded[type(self).__name__] = options

        def max_error(self) -> float:
            return 0.0

    class Mixed(Graphs): ...

    class Decodes(Graphs): ...

    monkeypatch.setattr(cuda, "MixedGraphs", Mixed)
    monkeypatch.setattr(cuda, "DecodeGraphs", Decodes)
    limits = {"max_num_seqs": 5, "max_num_batched_tokens": 300, "speculative_tokens": 4}
    backend = made(share_of(CPU, LoneRank(0, stripes, stripes)), **limits)
    cache, drawn = torch.empty(1, 2, 11, 8, 1, 16), torch.empty(5)
    backend.record_decodes(cache, drawn, 100, lambda run: run)
    allowed = StepLimits.on("cuda", 5, 300, 4)
    mixed, decodes = recorded["Mixed"], recorded["Decodes"]
    assert (mixed["most_tokens"], mixed["most_sequences"]) == (allowed.tokens, allowed.sequences) == (300, 5)
    assert decodes["largest"] == 5
    for options in (mixed, decodes):
        assert options["table_width"] == {1: 13, 2: 7}[stripes], "blocks of all ranks for the longest sequence"
        spare = options["spare"]
        assert (spare.block, spare.block_size, spare.stripes) == (10, 8 * stripes, stripes), "the last one"
    assert backend.replays


def test_kernels_that_are_compiled_late_are_counted_since_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = [3]
    monkeypatch.setattr(cuda, "_compilations", lambda: lambda: compiled[0])
    backend = made(share_of(CPU))
    backend.warm_up(torch.empty(0), torch.empty(0), 64)
    assert backend.late_compilations == 0
    compiled[0] = 5
    assert backend.late_compilations == 2
    plain = made(attention="torch")
    plain.warm_up(torch.empty(0), torch.empty(0), 64)
    assert plain.late_compilations == 0, "PyTorch's operations are there"
    rounded = made(attention="torch", quantization="int8")
    rounded.warm_up(torch.empty(0), torch.empty(0), 64)
    compiled[0] = 6
    assert rounded.late_compilations == 1


class Rounded(Linear): ...


@pytest.mark.parametrize("attention", ["torch", "triton"])
def test_linear_layers_have_the_form_that_was_asked_for(
    attention: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever attends; and what stands between them is ours where our attention is."""
    asked: list[str] = []
    operations = TorchOperations()
    monkeypatch.setattr(cuda, "_form", lambda share, quantization: asked.append(quantization) or Rounded)
    monkeypatch.setattr(cuda, "_operations", lambda share, config: operations)
    directory = write_checkpoint(tmp_path / "model", random_model())
    share = Share(ModelConfig.from_checkpoint(directory), TensorParallel(), CPU, torch.float32)
    config = EngineConfig(model=str(directory), quantization="int8")
    backend = CudaBackend(share, config, attention, lambda place: load_weights(share, directory, place))  # type: ignore[arg-type]
    block = backend.network.h[0]
    layers = [block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj, backend.network.lm_head]
    assert [type(layer) for layer in layers] == [Rounded] * 5
    assert asked == ["int8"]
    assert backend.parameter_bytes == backend.network.parameter_bytes
    assert (block.attn.operations is operations) == (attention == "triton")


@pytest.mark.parametrize(("size", "stripes", "heads"), [(1, 1, 4), (2, 1, 2), (2, 2, 4), (4, 2, 2)])
def test_a_rank_attends_with_its_heads_or_with_those_of_all_that_share_its_cache(
    size: int, stripes: int, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    attention = pytest.importorskip("model.kernels.triton_attention")
    striped = pytest.importorskip("model.kernels.triton_stripes")
    group = TensorParallel(0, size, stripes)
    found = cuda._triton_attention(share_of(CPU, group))
    if stripes > 1:
        assert isinstance(found, striped.StripedTritonAttention)
        assert found._stripes is group
        found = found._whole
    assert isinstance(found, attention.TritonAttention)
    assert (found._heads, found._device) == (heads, CPU)
    assert isinstance(found._heads, int), "kernels count with it"
