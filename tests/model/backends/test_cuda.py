"""The CUDA backend without a GPU: recorded steps are used where they give what the steps give that are not recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.backends.cuda import CudaBackend
from model.batch import Batch
from model.checkpoint.memory import cache_shape
from model.checkpoint.weights import Share, load_weights
from model.config import EngineConfig, ModelConfig
from model.limits import DRAFTED_ROWS
from model.network.parallel import TensorParallel
from model.network.sdpa_attention import SdpaAttention, SdpaPlan
from tests.support.batches import BLOCK_SIZE, batch_of
from tests.support.checkpoints import random_model, write_checkpoint

CPU = torch.device("cpu")
Run = Callable[[], torch.Tensor]


class FixedSizeAttention(SdpaAttention):
    """In the place of Triton's: plans what its tensors hold when a step is run."""

    def plan_of_size(self, slots: torch.Tensor, width: int, spare_block: int, longest: int) -> FixedSizePlan:
        return FixedSizePlan(slots, width, spare_block)


class FixedSizePlan:
    """Each row attends by itself: what those before it wrote lies in the cache by then."""

    def __init__(self, slots: torch.Tensor, width: int, spare_block: int) -> None:
        self.slots = slots
        self._spare_block = spare_block
        self._contexts = torch.ones(len(slots), dtype=torch.int64)
        self._tables = torch.full((len(slots), width), spare_block)

    def hold(self, batch: Batch) -> None:
        owner = np.repeat(np.arange(len(batch.query_lens)), batch.query_lens)
        count, width = len(owner), batch.block_tables.shape[1]
        self._contexts[:count] = torch.from_numpy(batch.positions + 1)
        self._tables[:count, :width] = torch.from_numpy(batch.block_tables[owner])
        self._contexts[count:], self._tables[count:] = 1, self._spare_block

    def attend(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        size = self._tables.shape[1] * cache.shape[2]
        mask = torch.zeros(len(self.slots), 1, 1, size)
        mask.masked_fill_(torch.arange(size) >= self._contexts[:, None, None, None], float("-inf"))
        return SdpaPlan(self.slots, len(self.slots), self._tables, mask, ()).attend(queries, cache, scale)


def loaded(directory: Path, speculative_tokens: int = 0) -> tuple[CudaBackend, torch.Tensor, torch.Tensor]:
    """A backend for four sequences at once, its cache and what was drawn."""
    model = ModelConfig.from_checkpoint(directory)
    share = Share(model, TensorParallel(), CPU, torch.float32)
    config = EngineConfig(model=str(directory), device="cpu", max_num_seqs=4, speculative_tokens=speculative_tokens)
    backend = CudaBackend(share, config, "torch", lambda place: load_weights(share, directory, place))
    backend._triton = FixedSizeAttention(BLOCK_SIZE, CPU, torch.float32)  # type: ignore[assignment]
    return backend, torch.zeros(cache_shape(model, 1, 201, BLOCK_SIZE)), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize("off_by", [0.0, 0.2])
def test_recorded_steps_are_used_only_if_they_are_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, off_by: float
) -> None:
    directory = write_checkpoint(tmp_path / "model", random_model())
    model = ModelConfig.from_checkpoint(directory)
    backend, cache, drawn = loaded(directory)
    replayed = []

    def record(run: Run) -> Run:
        def replay() -> torch.Tensor:
            replayed.append(1)
            return run() * (1 + off_by)

        return replay

    batch = batch_of([(0, 1), (0, 1), (0, 1)], model.vocab_size, 0)
    with torch.inference_mode():
        exact = backend.run(batch, cache, drawn)
    assert exact is not None
    backend.record_decodes(cache, drawn, model.n_positions, record)
    assert len(replayed) == 3
    assert ("not replayed as CUDA graphs: they are off by 0.2" in caplog.text) == (off_by > 0)
    with torch.inference_mode():
        found = backend.run(batch, cache, drawn)
    assert found is not None
    assert len(replayed) == (4 if off_by == 0 else 3)
    torch.testing.assert_close(found, exact)
    assert np.array_equal(found.argmax(-1).numpy(), exact.argmax(-1).numpy())
    assert backend.replays is (off_by == 0)
    backend.replays = False
    replayed.clear()
    with torch.inference_mode():
        backend.run(batch, cache, drawn)
    assert not replayed


sequences = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def drafting(tmp_path_factory: pytest.TempPathFactory) -> tuple[CudaBackend, torch.Tensor, torch.Tensor, list[int]]:
    """As `loaded`, its steps recorded: and the rows of those that were replayed."""
    directory = write_checkpoint(tmp_path_factory.mktemp("drafting") / "model", random_model())
    backend, cache, drawn = loaded(directory, speculative_tokens=8)
    replayed: list[int] = []

    def record(run: Run) -> Run:
        rows = len(run())
        return lambda: replayed.append(rows) or run()  # type: ignore[func-returns-value]

    backend.record_decodes(cache, drawn, 64, record)
    return backend, cache, drawn, replayed


@given(sequences, st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_sequences_with_drafts_are_replayed_as_long_as_a_step_is_bound_by_the_weights(
    drafting: tuple[CudaBackend, torch.Tensor, torch.Tensor, list[int]], rows: list[tuple[int, int]], seed: int
) -> None:
    backend, cache, drawn, replayed = drafting
    most = DRAFTED_ROWS["cpu"]
    batch = batch_of(rows, backend.network.config.vocab_size, seed)
    noise = torch.randn(cache.shape, generator=torch.Generator().manual_seed(seed))
    found, written = [], []
    for replays in (False, True):
        backend.replays = replays
        replayed.clear()
        cache.copy_(noise)
        cache[:, :, -1] = 1e4  # no sequence reads the block that belongs to nobody
        with torch.inference_mode():
            logits = backend.run(batch, cache, drawn)
        assert logits is not None
        found.append(logits.clone())
        written.append(cache[:, :, :-1].clone())
        total = len(batch.tokens)
        assert [total <= n < max(total + 2, 2 * total) for n in replayed] == [True] * (replays and total <= most)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*written, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("activation", "other"), [("gelu", "gelu_new"), ("gelu_pytorch_tanh", "gelu")])
def test_no_form_of_gelu_takes_the_place_of_the_other(tmp_path: Path, activation: str, other: str) -> None:
    """Neither in a step that is run kernel by kernel, nor in a recorded one."""
    reference = random_model(activation_function=activation)
    for block in reference.transformer.h:  # where they differ most
        block.mlp.c_fc.bias.data.sub_(2.2)
        block.mlp.c_proj.weight.data.mul_(10)
    directory = write_checkpoint(tmp_path / "model", reference)
    model = ModelConfig.from_checkpoint(directory)
    backend, cache, drawn = loaded(directory)
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
    config = EngineConfig(model=str(directory), device="cpu")

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
