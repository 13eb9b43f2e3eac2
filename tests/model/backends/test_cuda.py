"""The CUDA backend without a GPU: recorded steps are used where they give what the steps give that are not recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from model.backends.cuda import CudaBackend
from model.checkpoint.memory import cache_shape
from model.checkpoint.weights import Share, load_weights
from model.config import EngineConfig, ModelConfig
from model.kernels.mixed_graphs import MOST_TOKENS, Layout, token_counts
from model.network.parallel import TensorParallel
from model.network.sdpa_attention import SdpaAttention, SdpaPlan
from tests.support.batches import BLOCK_SIZE, batch_of
from tests.support.checkpoints import random_model, write_checkpoint

CPU = torch.device("cpu")
Run = Callable[[], torch.Tensor]


class FixedSizeAttention(SdpaAttention):
    """In the place of Triton's: plans what its tensors hold when a step is run."""

    def plan_decodes(
        self, slots: torch.Tensor, contexts: torch.Tensor, tables: torch.Tensor, longest: int
    ) -> FixedSizePlan:
        return FixedSizePlan(self, slots, contexts, tables)

    def cut(
        self, query_lens: npt.NDArray[np.int64], tokens: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        every = np.arange(len(query_lens))
        return every, np.zeros_like(every)

    def most_tiles(self, tokens: int, sequences: int) -> int:
        return sequences

    def plan_layout(self, layout: Layout, tokens: int, longest: int) -> LayoutPlan:
        return LayoutPlan(layout)


class LayoutPlan:
    """Attends by the definition, to what the layout says when it is asked."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self.slots = layout, layout.slots

    def attend(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        starts, lens, contexts = self._layout.sequences.numpy()
        tables, out = self._layout.tables.long(), torch.full(queries.shape, float("nan"))
        for sequence in self._layout.tiles[0].tolist():
            start, count, context = int(starts[sequence]), int(lens[sequence]), int(contexts[sequence])
            if count:
                slots = torch.arange(context)
                keys, values = cache.flatten(1, 2)[
                    :, tables[sequence][slots // BLOCK_SIZE] * BLOCK_SIZE + slots % BLOCK_SIZE, 0
                ]
                scores = torch.einsum("qhw,cw->hqc", queries[start : start + count], keys) * scale
                scores.masked_fill_(torch.ones(count, context).tril(context - count) == 0, float("-inf"))
                out[start : start + count] = torch.einsum("hqc,cw->qhw", scores.softmax(-1), values)
        return out


class FixedSizePlan:
    def __init__(
        self, attention: SdpaAttention, slots: torch.Tensor, contexts: torch.Tensor, tables: torch.Tensor
    ) -> None:
        self._attention, self.slots, self._contexts, self._tables = attention, slots, contexts, tables

    def attend(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        size = self._tables.shape[1] * cache.shape[2]
        mask = torch.zeros(len(self.slots), 1, 1, size)
        mask.masked_fill_(torch.arange(size) >= self._contexts[:, None, None, None], float("-inf"))
        return SdpaPlan(self.slots, len(self.slots), self._tables.long(), mask, ()).attend(queries, cache, scale)


def loaded(directory: Path, **options: int) -> tuple[ModelConfig, CudaBackend]:
    """A network of noise for four sequences at once, whose attention takes whatever the plan's tensors hold."""
    write_checkpoint(directory, random_model())
    model = ModelConfig.from_checkpoint(directory)
    share = Share(model, TensorParallel(), CPU, torch.float32)
    config = EngineConfig(model=str(directory), device="cpu", max_num_seqs=4, **options)  # type: ignore[arg-type]
    backend = CudaBackend(share, config, "torch", lambda place: load_weights(share, directory, place))
    backend._triton = FixedSizeAttention(BLOCK_SIZE, CPU, torch.float32)  # type: ignore[assignment]
    return model, backend


@pytest.mark.parametrize("off_by", [0.0, 0.2])
def test_recorded_steps_are_used_only_if_they_are_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, off_by: float
) -> None:
    model, backend = loaded(tmp_path / "model")
    replayed = []

    def record(run: Run) -> Run:
        def replay() -> torch.Tensor:
            replayed.append(1)
            return run() * (1 + off_by)

        return replay

    cache = torch.zeros(cache_shape(model, 1, 201, BLOCK_SIZE))
    drawn = torch.zeros(4, dtype=torch.int64)
    batch = batch_of([(0, 1), (0, 1), (0, 1)], model.vocab_size, 0)
    with torch.inference_mode():
        exact = backend.run(batch, cache, drawn)
    assert exact is not None
    backend.record_decodes(cache, drawn, model.n_positions, record)
    recorded = len(replayed)
    assert recorded == 3 + len(token_counts(min(MOST_TOKENS, 4 * model.n_positions)))  # each is checked
    assert ("not replayed as CUDA graphs: they are off by 0.2" in caplog.text) == (off_by > 0)
    with torch.inference_mode():
        found = backend.run(batch, cache, drawn)
    assert found is not None
    assert len(replayed) == recorded + (1 if off_by == 0 else 0)
    torch.testing.assert_close(found, exact)
    assert np.array_equal(found.argmax(-1).numpy(), exact.argmax(-1).numpy())
    assert backend.replays is (off_by == 0)
    backend.replays = False
    replayed.clear()
    with torch.inference_mode():
        backend.run(batch, cache, drawn)
    assert not replayed


@pytest.mark.parametrize(("activation", "other"), [("gelu", "gelu_new"), ("gelu_pytorch_tanh", "gelu")])
def test_no_form_of_gelu_takes_the_place_of_the_other(tmp_path: Path, activation: str, other: str) -> None:
    """Neither in a step that is run kernel by kernel, nor in a recorded one."""
    reference = random_model(activation_function=activation)
    for block in reference.transformer.h:  # where they differ most
        block.mlp.c_fc.bias.data.sub_(2.2)
        block.mlp.c_proj.weight.data.mul_(10)
    directory = write_checkpoint(tmp_path / "model", reference)
    model = ModelConfig.from_checkpoint(directory)
    share = Share(model, TensorParallel(), CPU, torch.float32)
    config = EngineConfig(model=str(directory), device="cpu", max_num_seqs=4)
    backend = CudaBackend(share, config, "torch", lambda place: load_weights(share, directory, place))
    backend._triton = FixedSizeAttention(BLOCK_SIZE, CPU, torch.float32)  # type: ignore[assignment]
    cache = torch.zeros(cache_shape(model, 1, 201, BLOCK_SIZE))
    drawn = torch.zeros(4, dtype=torch.int64)
    batch = batch_of([(0, 1), (0, 1), (0, 1)], model.vocab_size, 0)

    def logits(name: str) -> torch.Tensor:
        changed = type(reference).from_pretrained(directory, activation_function=name)
        found: torch.Tensor = changed.float().eval()(torch.from_numpy(batch.tokens)[:, None]).logits[:, 0]
        return found

    with torch.inference_mode():
        eager = backend.run(batch, cache, drawn)
        assert eager is not None
        torch.testing.assert_close(eager, logits(activation), rtol=1e-4, atol=1e-4)
        assert (eager - logits(other)).abs().max() > 2e-3
        eager = eager.clone()
    backend.record_decodes(cache, drawn, model.n_positions, lambda run: run)
    assert backend.replays
    with torch.inference_mode():
        replayed = backend.run(batch, cache, drawn)
    assert replayed is not None
    torch.testing.assert_close(replayed, eager)


def test_kernels_compiled_after_the_warm_up_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton", reason="Triton has no build for this machine")
    heard = []
    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", lambda **about: heard.append(about["key"]))
    directory = write_checkpoint(tmp_path / "model", random_model(n_embd=64, n_head=4))
    model = ModelConfig.from_checkpoint(directory)
    share = Share(model, TensorParallel(), CPU, torch.float32)
    config = EngineConfig(model=str(directory), device="cpu", max_num_seqs=4)

    def compiled(kernel: str) -> None:
        triton.knobs.runtime.jit_post_compile_hook(key=kernel)

    backends = [
        CudaBackend(share, config, attention, lambda place: load_weights(share, directory, place))
        for attention in ("triton", "triton", "torch")
    ]
    compiled("at the start")
    for backend in backends:
        backend.warm_up(torch.zeros(1), torch.zeros(1), 16)
    assert [backend.late_compilations for backend in backends] == [0, 0, 0]
    compiled("while serving")
    assert [backend.late_compilations for backend in backends] == [1, 1, 0]
    assert heard == ["at the start", "while serving"]


@pytest.mark.parametrize("rows", [[(0, 9)], [(30, 1), (7, 5), (0, 21)], [(3, 1), (3, 4), (16, 4)], [(60, 70)]])
@pytest.mark.parametrize("all_logits", [False, True])
def test_steps_with_chunks_and_drafts_are_replayed_too(
    tmp_path: Path, rows: list[tuple[int, int]], all_logits: bool
) -> None:
    model, backend = loaded(tmp_path / "model", max_num_batched_tokens=96)
    ran = []

    def record(run: Run) -> Run:
        return lambda: ran.append(1) or run()  # type: ignore[func-returns-value]

    cache = torch.randn(cache_shape(model, 1, 201, BLOCK_SIZE))
    drawn = torch.zeros(4, dtype=torch.int64)
    batch = batch_of(rows, model.vocab_size, 0, all_logits)
    total = len(batch.tokens)
    with torch.inference_mode():
        plain, recorded = cache.clone(), cache.clone()
        exact = backend.run(batch, plain, drawn)
        backend.record_decodes(recorded, drawn, model.n_positions, record)
        recorded[:, :, :-1] = cache[:, :, :-1]
        ran.clear()
        found = backend.run(batch, recorded, drawn)
    fits = total <= 64 or not all_logits
    assert len(ran) == (1 if fits else 0)
    assert exact is not None
    assert found is not None
    torch.testing.assert_close(found, exact)
    torch.testing.assert_close(recorded[:, :, :-1], plain[:, :, :-1])  # the last block is nobody's


def test_a_step_that_wants_no_logits_is_replayed_and_gives_none(tmp_path: Path) -> None:
    model, backend = loaded(tmp_path / "model")
    ran = []

    def record(run: Run) -> Run:
        return lambda: ran.append(1) or run()  # type: ignore[func-returns-value]

    cache = torch.zeros(cache_shape(model, 1, 201, BLOCK_SIZE))
    drawn = torch.zeros(4, dtype=torch.int64)
    batch = dataclasses.replace(batch_of([(0, 12)], model.vocab_size, 0), logit_rows=np.zeros(0, dtype=np.int64))
    with torch.inference_mode():
        backend.record_decodes(cache, drawn, model.n_positions, record)
        ran.clear()
        assert backend.run(batch, cache, drawn) is None
    assert len(ran) == 1
