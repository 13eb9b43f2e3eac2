"""The forward pass in C against the same network in PyTorch, and against float32."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.backends.native import NativeBackend
from model.backends.plain import PlainBackend
from model.batch import Batch
from model.config import ConfigError
from model.kernels.native import library as native
from model.network.gpt_bigcode import GPTBigCode
from model.network.layers import Linear
from model.runner import Runner
from model.statistics import ForwardPath
from tests.support.batches import BLOCK_SIZE, batch_of, part_of
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.native import needs_kernel, only, runner_of, variants

WHOLE = [1, 4]
"""Of SHAPES, those that the kernel fills up with nothing."""
SHAPES = [
    {"n_embd": 192, "n_head": 3, "n_layer": 2, "n_inner": 272, "vocab_size": 331, "activation_function": "gelu"},
    {"n_embd": 1280, "n_head": 20, "n_layer": 2, "n_inner": 1280, "vocab_size": 512},  # two groups of heads
    {"n_embd": 150, "n_head": 5, "n_layer": 2, "n_inner": 333, "vocab_size": 77},  # nothing is a multiple of anything
    {"n_embd": 240, "n_head": 3, "n_layer": 2, "n_inner": 100, "vocab_size": 50, "multi_query": False},
    {"n_embd": 256, "n_head": 2, "n_layer": 3, "n_inner": 1024, "vocab_size": 4096},  # heads of 128, as StarCoder's
]


@pytest.fixture(params=variants())
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[native.Variant]:
    with only(monkeypatch, request.param):
        yield request.param


@pytest.fixture(scope="module", params=range(len(SHAPES)))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last one's matrices have outliers, 30 times as large as the others."""
    directory = tmp_path_factory.mktemp("native") / "model"
    model = random_model(seed=request.param, n_positions=512, **SHAPES[request.param])
    if request.param == len(SHAPES) - 1:
        generator = torch.Generator().manual_seed(0)
        for name, weight in model.named_parameters():
            if is_matrix(name):
                weight.data *= 1 + 29.0 * (torch.rand(weight.shape, generator=generator) < 0.002)
    return write_checkpoint(directory, model)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def fill(runner: Runner, seed: int) -> None:
    own = runner.cache[..., : runner.model.head_dim]
    own.copy_(noise(own.shape, seed))


@lru_cache(maxsize=1)
def noise(shape: torch.Size, seed: int) -> torch.Tensor:
    """The last is kept: runners that are compared, and rows that are run alone, are given the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network_of(runner: Runner) -> GPTBigCode:
    assert isinstance(runner.backend, PlainBackend)
    return runner.backend.network


def error_of(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@needs_kernel
@pytest.mark.usefixtures("threads", "variant")
def test_it_errs_no_more_than_pytorch_in_the_same_type(checkpoint: Path) -> None:
    exact, plain, ours = (
        runner_of(checkpoint, "torch", "float32"),
        runner_of(checkpoint, "torch"),
        runner_of(checkpoint, "native"),
    )
    vocab_size = exact.model.vocab_size

    # The same cases each time: of few rows, either error may be the smaller one by chance.
    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(
        rows=st.lists(
            st.tuples(st.integers(0, 300), st.sampled_from([1, 1, 2, 5, 7, 12, 13, 40])), min_size=1, max_size=7
        ),
        seed=st.integers(0, 1000),
    )
    def check(rows: list[tuple[int, int]], seed: int) -> None:
        batch = batch_of(rows, vocab_size, seed)
        logits = []
        for runner in (exact, plain, ours):
            fill(runner, seed)
            if runner is not exact:
                assert runner.cache.dtype is torch.bfloat16
            else:
                runner.cache.copy_(runner.cache.bfloat16())
            found = runner.run(batch)
            assert found is not None
            logits.append(found.clone())
        assert logits[2].shape == (len(batch.logit_rows), vocab_size)
        assert error_of(logits[2], logits[0]) <= 1.1 * error_of(logits[1], logits[0]) + 1e-3
        # what was written for later steps, too
        written = torch.from_numpy(batch.slots)
        head_dim = ours.model.head_dim  # the kernel may hold zeros behind
        caches = [r.cache.flatten(2, 3)[:, :, written, :, :head_dim].float() for r in (exact, plain, ours)]
        assert error_of(caches[2], caches[0]) <= 1.1 * error_of(caches[1], caches[0]) + 1e-3
        # and nothing else
        untouched = torch.ones(ours.cache.shape[2] * BLOCK_SIZE, dtype=torch.bool)
        untouched[written] = False
        theirs, mine = (r.cache.flatten(2, 3)[:, :, untouched, :, :head_dim] for r in (plain, ours))
        assert torch.equal(theirs, mine)

    check()


@needs_kernel
@pytest.mark.usefixtures("threads", "variant")
@pytest.mark.parametrize("threads_used", [1, 2, 3])
def test_a_row_does_not_depend_on_its_neighbours_or_on_threads(checkpoint: Path, threads_used: int) -> None:
    ours = runner_of(checkpoint, "native", threads=threads_used)
    rows = [(17, 1), (250, 1), (0, 1), (31, 9), (16, 40)]
    together = batch_of(rows, ours.model.vocab_size, seed=3)
    fill(ours, 3)
    whole = ours.run(together)
    assert whole is not None
    whole = whole.clone()
    starts = np.cumsum(together.query_lens) - together.query_lens
    torch.set_num_threads(1)
    for i, start in enumerate(starts):
        fill(ours, 3)
        found = ours.run(part_of(together, i, start))
        assert found is not None
        assert torch.equal(found, whole[start : start + together.query_lens[i]])


@needs_kernel
@pytest.mark.usefixtures("threads", "variant")
@pytest.mark.parametrize("checkpoint", [1], indirect=True)
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_a_row_does_not_depend_on_how_many_there_are(checkpoint: Path, quantization: str) -> None:
    """More than wait together for a weight, and than share one load of it."""
    ours = runner_of(checkpoint, "native", quantization=quantization)
    rows = [(0, 290), (200, 1), (7, 260)]
    together = batch_of(rows, ours.model.vocab_size, seed=4)
    fill(ours, 4)
    whole = ours.run(together)
    assert whole is not None
    whole = whole.clone()
    starts = np.cumsum(together.query_lens) - together.query_lens
    for i, start in enumerate(starts):
        fill(ours, 4)
        found = ours.run(part_of(together, i, start))
        assert found is not None
        assert torch.equal(found, whole[start : start + together.query_lens[i]])


@needs_kernel
@pytest.mark.usefixtures("threads", "variant")
def test_int8_does_what_rounding_by_its_definition_does(checkpoint: Path) -> None:
    """Against PyTorch's network in float32 over the rounded weights, every product's input rounded as well."""
    reference = runner_of(checkpoint, "torch", "float32")
    for module in network_of(reference).modules():
        if isinstance(module, Linear):
            module.weight.data = round_rows(module.weight.data.bfloat16().float())
            module.register_forward_pre_hook(lambda _, args: (round_rows(args[0]),))
    ours = runner_of(checkpoint, "auto", quantization="int8")
    exact = runner_of(checkpoint, "torch", "float32")
    for seed in range(6):
        batch = batch_of([(17 * seed, 1), (0, 1), (3, 7), (0, 40)], ours.model.vocab_size, seed)
        logits = []
        for runner in (exact, reference, ours):
            fill(runner, seed)
            runner.cache.copy_(runner.cache.bfloat16())
            found = runner.run(batch)
            assert found is not None
            logits.append(found.clone())
        assert error_of(logits[2], logits[0]) < 1.2 * error_of(logits[1], logits[0]) < 0.2
        starts = np.cumsum(batch.query_lens) - batch.query_lens
        alone = part_of(batch, 3, starts[3])
        fill(ours, seed)
        found = ours.run(alone)
        assert found is not None
        assert torch.equal(found, logits[2][starts[3] :])


@needs_kernel
@pytest.mark.parametrize("checkpoint", WHOLE, indirect=True)
def test_int8_counts_the_bytes_it_holds(checkpoint: Path) -> None:
    plain, packed = runner_of(checkpoint, "torch"), runner_of(checkpoint, "native", quantization="int8")
    network = network_of(runner_of(checkpoint, "torch", "float32"))
    matrices = sum(w.numel() for n, w in network.named_parameters() if is_matrix(n))
    saved = plain.report.parameter_bytes - packed.report.parameter_bytes
    assert 0.9 * matrices < saved < matrices


def is_matrix(name: str) -> bool:
    return name.endswith("weight") and ("attn" in name or "mlp" in name or "lm_head" in name)


def round_rows(values: torch.Tensor) -> torch.Tensor:
    scale = values.abs().amax(dim=-1, keepdim=True).clamp_min(1e-30) / 127
    return (values / scale).round() * scale


@pytest.mark.parametrize(("kernels", "dtype"), [("torch", "bfloat16"), ("auto", "float32")])
def test_int8_is_refused_where_only_pytorch_could_run(checkpoint: Path, kernels: str, dtype: str) -> None:
    with pytest.raises(ConfigError, match="quantization=int8"):
        runner_of(checkpoint, kernels, dtype, quantization="int8")


@needs_kernel
@pytest.mark.parametrize("checkpoint", WHOLE, indirect=True)
def test_weights_are_freed_and_logits_only_made_where_wanted(checkpoint: Path) -> None:
    ours = runner_of(checkpoint, "native")
    assert isinstance(ours.backend, NativeBackend)
    held = {tensor.data_ptr(): tensor.nbytes for tensor in ours.backend._held}
    embedding = 2 * ours.model.vocab_size * ours.model.n_embd  # beside the head, which is a packed copy of it
    assert sum(held.values()) <= 1.02 * (ours.report.parameter_bytes + embedding)
    batch = batch_of([(3, 5)], ours.model.vocab_size, 0)
    assert ours.run(Batch(**{**batch.__dict__, "logit_rows": np.array([], np.int64)})) is None
    plain = runner_of(checkpoint, "torch").report.parameter_bytes
    assert plain <= ours.report.parameter_bytes <= 1.02 * plain  # blocks have exponents


@pytest.mark.parametrize(
    ("kernels", "quantization"),
    [
        pytest.param("native", "none", marks=needs_kernel),
        pytest.param("native", "int8", marks=needs_kernel),
        ("torch", "none"),
    ],
)
def test_rows_without_logits_leave_what_they_leave_with_them(checkpoint: Path, kernels: str, quantization: str) -> None:
    runner = runner_of(checkpoint, kernels, quantization=quantization)
    rows = [(20, 1), (0, 30), (7, 9)]
    everything = batch_of(rows, runner.model.vocab_size, 5)
    fill(runner, 5)
    whole = runner.run(everything)
    assert whole is not None
    whole, cache = whole.clone(), runner.cache.clone()
    for wanted in ([0, 30, 39], [39, 3], [0], []):
        fill(runner, 5)
        some = runner.run(Batch(**{**everything.__dict__, "logit_rows": np.array(wanted, np.int64)}))
        assert torch.equal(runner.cache, cache)
        if not wanted:
            assert some is None
        elif kernels == "native":
            assert some is not None
            assert torch.equal(some, whole[wanted])
        else:
            assert some is not None
            torch.testing.assert_close(some, whole[wanted], atol=0.05, rtol=0.05)


@needs_kernel
@pytest.mark.usefixtures("threads", "variant")
@pytest.mark.parametrize("checkpoint", [1], indirect=True)
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_the_kernel_has_the_room_that_it_writes_to(checkpoint: Path, quantization: str) -> None:
    """By what it says of itself: nothing stops it at the end of a buffer. Rows come 16 at a time, logits too."""
    backend = runner_of(checkpoint, "native", quantization=quantization).backend
    assert isinstance(backend, NativeBackend)
    kernel, sizes = native.library(), backend._dimensions

    def fact(name: str) -> int:
        return ctypes.c_int.in_dll(kernel, f"starcoder_{name}").value

    padding, int8_padding = fact("row_padding"), fact("int8_padding")
    backend._room, backend._logits = 0, torch.empty(0)
    for tokens, rows, held_tokens, held_rows in [(5, 3, 16, 3), (33, 2, 48, 3), (40, 40, 48, 40), (48, 41, 48, 41)]:
        backend._make_room(tokens, rows)
        attended, logits = max(sizes.width, sizes.queries) + padding, -(-backend._config.vocab_size // 16) * 16
        expected = {
            "_x": (4, held_tokens, sizes.width),
            "_h": (fact("activation_bytes"), held_tokens, attended),
            "_qkv": (2, held_tokens, sizes.qkv),
            "_mid": (fact("activation_bytes"), held_tokens, sizes.inner + padding),
            "_y": (4, held_rows, sizes.width),
            "_few_h": (fact("activation_bytes"), -(-held_rows // 16) * 16, sizes.width + padding),
            "_few_q": (2, held_rows, sizes.queries),
            "_logits": (4, held_rows, logits),
        }
        if quantization == "int8":
            expected |= {"_q": (1, held_tokens, sizes.longest + int8_padding), "_q_scale": (4, held_tokens)}
        elif fact("weights_in_blocks"):
            expected |= {"_q": (2, held_tokens, sizes.longest + padding)}
        found = {name: getattr(backend, name) for name in expected}
        assert {name: (one.element_size(), *one.shape) for name, one in found.items()} == expected


@needs_kernel
@pytest.mark.usefixtures("variant", "threads")
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_weight_is_not_hidden(tmp_path: Path, broken: float) -> None:
    """By what the first step computes it is found at the start."""
    model = random_model(n_positions=64, **SHAPES[0])
    model.transformer.h[0].mlp.c_proj.weight.data[5, 70] = broken
    with pytest.raises(ConfigError, match="not finite"):
        runner_of(write_checkpoint(tmp_path / "model", model), "native")


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ({}, "float32", "weights are float32"),
        ({"n_embd": 1040, "n_head": 1}, "bfloat16", "heads of 1040"),
    ],
)
def test_what_it_does_not_know_is_refused_by_name_and_runs_in_pytorch(
    tmp_path: Path, shape: dict[str, object], dtype: str, reason: str
) -> None:
    model = random_model(**{"n_embd": 192, "n_head": 3, "n_layer": 1, "n_inner": 64, **shape})
    directory = write_checkpoint(tmp_path / "model", model)
    with pytest.raises(ConfigError, match=reason):
        runner_of(directory, "native", dtype)
    runner = runner_of(directory, "auto", dtype)
    assert runner.run(batch_of([(0, 3)], runner.model.vocab_size, 0)) is not None


def test_without_a_compiler_pytorch_runs(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(native, "_find", lambda variant: None)
    native.kernel.cache_clear()
    try:
        with caplog.at_level("INFO"):
            runner = runner_of(checkpoint, "auto")
        assert runner.run(batch_of([(0, 3)], runner.model.vocab_size, 0)) is not None
        assert [r.levelname for r in caplog.records if "instead of our forward pass in C" in r.message] == ["WARNING"]
        assert runner.report.forward == ForwardPath("torch", "no C compiler is installed")
        assert list(tmp_path.rglob("*.so")) == []
    finally:
        native.kernel.cache_clear()
