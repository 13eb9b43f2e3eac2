"""The forward pass in C against the same network in PyTorch, and against float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batch import Batch
from model.config import ConfigError, EngineConfig, ModelConfig
from model.kernels.native import library as native
from model.kernels.native.network import BlockedWeight, pack, pack_in_blocks
from model.network.layers import Linear
from model.process.rank import Rank
from model.runner import Runner, choose_dtype
from tests.support.checkpoints import random_model, write_checkpoint

BLOCK_SIZE = 16
SHAPES = [
    {"n_embd": 192, "n_head": 3, "n_layer": 2, "n_inner": 272, "vocab_size": 331},
    {"n_embd": 1280, "n_head": 20, "n_layer": 2, "n_inner": 1280, "vocab_size": 512},  # two groups of heads
    {"n_embd": 256, "n_head": 2, "n_layer": 3, "n_inner": 1024, "vocab_size": 4096},  # heads of 128, as StarCoder's
]


def can_run() -> str | None:
    try:
        native.library()
    except native.Unavailable as error:
        return str(error)
    return None


needs_kernel = pytest.mark.skipif(can_run() is not None, reason=f"the kernel cannot run here: {can_run()}")


def variants() -> list[native.Variant]:
    """Those that this CPU runs: the one for it, and the one that does with less."""
    if can_run() is not None:
        return []
    return ["int16"] if native.variant() == "int16" else ["bf16", "int16"]


@pytest.fixture(params=variants())
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[native.Variant]:
    monkeypatch.setattr(native, "variant", lambda: request.param)
    native.library.cache_clear()
    yield request.param
    native.library.cache_clear()


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


def runner_of(
    checkpoint: Path, kernels: str, dtype: str = "bfloat16", threads: int = 2, quantization: str = "none"
) -> Runner:
    rank = Rank(
        EngineConfig(
            model=str(checkpoint),
            device="cpu",
            dtype=dtype,
            num_kv_blocks=200,
            num_threads=threads,
            cpu_kernels=kernels,
            quantization=quantization,
        )
    )
    rank.load()
    assert rank._runner is not None
    return rank._runner


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def batch_of(rows: list[tuple[int, int]], vocab_size: int, seed: int, all_logits: bool = True) -> Batch:
    """rows: for each sequence (tokens in the cache already, new tokens); blocks are handed out in random order."""
    rng = np.random.default_rng(seed)
    rows = sorted(rows, key=lambda r: r[1] > 1)
    free = list(rng.permutation(np.arange(1, 200)))
    width = max(-(-(old + new) // BLOCK_SIZE) for old, new in rows)
    tables = np.zeros((len(rows), width), np.int64)
    tokens, positions, slots, logit_rows = [], [], [], []
    for i, (old, new) in enumerate(rows):
        used = -(-(old + new) // BLOCK_SIZE)
        tables[i, :used] = [free.pop() for _ in range(used)]
        for position in range(old, old + new):
            tokens.append(int(rng.integers(vocab_size)))
            positions.append(position)
            slots.append(int(tables[i, position // BLOCK_SIZE]) * BLOCK_SIZE + position % BLOCK_SIZE)
        logit_rows += range(len(tokens) - new, len(tokens)) if all_logits else [len(tokens) - 1]
    return Batch(
        tokens=np.array(tokens),
        positions=np.array(positions),
        slots=np.array(slots),
        query_lens=np.array([new for _, new in rows]),
        context_lens=np.array([old + new for old, new in rows]),
        block_tables=tables,
        logit_rows=np.array(logit_rows),
        num_decodes=sum(new == 1 for _, new in rows),
    )


def part_of(batch: Batch, i: int, start: int) -> Batch:
    """The batch of its sequence i alone, whose rows begin at `start`."""
    part = slice(start, start + batch.query_lens[i])
    return Batch(
        tokens=batch.tokens[part],
        positions=batch.positions[part],
        slots=batch.slots[part],
        query_lens=batch.query_lens[i : i + 1],
        context_lens=batch.context_lens[i : i + 1],
        block_tables=batch.block_tables[i : i + 1],
        logit_rows=np.arange(batch.query_lens[i]),
        num_decodes=int(batch.query_lens[i] == 1),
    )


def fill(runner: Runner, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    runner.cache.copy_(torch.randn(runner.cache.shape, generator=generator))


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

    @settings(max_examples=12, deadline=None)
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
        caches = [r.cache.flatten(2, 3)[:, :, written].float() for r in (exact, plain, ours)]
        assert error_of(caches[2], caches[0]) <= 1.1 * error_of(caches[1], caches[0]) + 1e-3
        # and nothing else
        untouched = torch.ones(ours.cache.shape[2] * BLOCK_SIZE, dtype=torch.bool)
        untouched[written] = False
        theirs, mine = (r.cache.flatten(2, 3)[:, :, untouched] for r in (plain, ours))
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
def test_int8_does_what_rounding_by_its_definition_does(checkpoint: Path) -> None:
    """Against PyTorch's network in float32 over the rounded weights, every product's input rounded as well."""
    reference = runner_of(checkpoint, "torch", "float32")
    for module in reference.network.modules():
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
def test_int8_counts_the_bytes_it_holds(checkpoint: Path) -> None:
    plain, packed = runner_of(checkpoint, "torch"), runner_of(checkpoint, "native", quantization="int8")
    matrices = sum(
        w.numel() for n, w in runner_of(checkpoint, "torch", "float32").network.named_parameters() if is_matrix(n)
    )
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
def test_weights_are_freed_and_logits_only_made_where_wanted(checkpoint: Path) -> None:
    ours = runner_of(checkpoint, "native")
    linear = ours.network.h[0].mlp.c_fc  # type: ignore[union-attr]
    assert linear.weight.numel() == 0
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
@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ({}, {}, torch.bfloat16),
        ({"multi_query": False}, {}, torch.float32),
        ({}, {"cpu_kernels": "torch"}, torch.float32),
        ({}, {"attention": "triton"}, torch.float32),
        ({}, {"dtype": "float32"}, torch.float32),
    ],
)
def test_where_the_cpu_cannot_multiply_bfloat16_only_our_kernels_choose_it(
    monkeypatch: pytest.MonkeyPatch, shape: dict[str, object], options: dict[str, str], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    model = ModelConfig(vocab_size=64, n_positions=64, n_embd=192, n_head=3, n_layer=1, n_inner=64, **shape)
    config = EngineConfig(model="x", device="cpu", **options)
    assert choose_dtype(config, model, 1, torch.device("cpu")) is expected


@pytest.mark.parametrize(
    ("facts", "bf16", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\n", True, "bf16"),
        ("vendor_id\t: AuthenticAMD\n", False, "int16"),
        ("processor\t: 0\nvendor_id\t: GenuineIntel\n", True, "int16"),
        (None, True, "int16"),
    ],
)
def test_the_variant_is_the_fastest_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, facts: str | None, bf16: bool, expected: str
) -> None:
    monkeypatch.setattr(native.platform, "machine", lambda: "x86_64")
    for flag, found in (("avx512", True), ("vnni", True), ("avx512_bf16", bf16)):
        monkeypatch.setattr(torch.cpu, f"_is_{flag}_supported", lambda found=found: found)
    monkeypatch.setattr(native, "CPU_FACTS", tmp_path / "cpuinfo")
    if facts is not None:
        native.CPU_FACTS.write_text(facts)
    assert native.variant() == expected
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(native.Unavailable, match="VNNI"):
        native.variant()


def test_packing_is_a_permutation_with_zeros_for_missing_rows() -> None:
    weight = torch.arange(20 * 6, dtype=torch.float32).view(20, 6)
    packed = pack(weight)
    assert packed.shape == (2, 3, 16, 2)
    for n in range(32):
        for k in range(6):
            expected = weight[n, k] if n < 20 else 0.0
            assert packed[n // 16, k // 2, n % 16, k % 2] == expected


@pytest.mark.parametrize("outputs", [16, 4000, 4010])
def test_packing_in_place_is_packing(outputs: int) -> None:
    weight = torch.randn(outputs, 192).bfloat16()
    kept = weight.clone()
    expected = pack(weight)
    assert torch.equal(weight, kept)
    packed = pack(weight, in_place=True)
    assert torch.equal(packed, expected)
    assert (packed.data_ptr() == weight.data_ptr()) == (outputs % 16 == 0)


def from_blocks(packed: BlockedWeight, outputs: int, inputs: int) -> torch.Tensor:
    """By the layout's description, in float64."""
    whole = torch.empty(outputs, inputs, dtype=torch.float64)
    for n in range(outputs):
        for k in range(inputs):
            exponent = int(packed.exponents[n // 16, k // 64, n % 16]) - 127
            whole[n, k] = float(packed.data[n // 16, k // 2, n % 16, k % 2]) * 2.0**exponent
    return whole


@needs_kernel
@pytest.mark.usefixtures("variant", "threads")
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_weight_is_not_hidden(tmp_path: Path, broken: float) -> None:
    model = random_model(n_positions=64, **SHAPES[0])
    model.transformer.h[0].mlp.c_proj.weight.data[5, 70] = broken
    ours = runner_of(write_checkpoint(tmp_path / "model", model), "native")
    found = ours.run(batch_of([(0, 3)], ours.model.vocab_size, 0))
    assert found is not None
    assert bool(found.isnan().any())


@needs_kernel
def test_blocks_hold_what_bfloat16_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "variant", lambda: "int16")
    native.library.cache_clear()

    @settings(max_examples=15, deadline=None)
    @given(
        outputs=st.integers(1, 33),
        pairs=st.integers(1, 70),
        tail=st.sampled_from([0.3, 1.0, 3.0]),
        seed=st.integers(0, 1000),
    )
    def check(outputs: int, pairs: int, tail: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(outputs, 2 * pairs, generator=generator)
        weight = (weight * torch.exp(tail * torch.randn(weight.shape, generator=generator))).bfloat16()
        weight[0, : pairs // 2] = 0
        kept = weight.clone()
        packed = pack_in_blocks(weight)
        assert torch.equal(weight, kept)
        assert int(packed.data.abs().max()) <= 4095
        found, exact = from_blocks(packed, outputs, 2 * pairs), weight.double()
        for start in range(0, 2 * pairs, 64):
            block, other = exact[:, start : start + 64], found[:, start : start + 64]
            largest = block.abs().amax(dim=1, keepdim=True)
            assert torch.all((other - block).abs() <= largest / 4095 * 1.0001)
            large = block.abs() >= largest / 8
            assert torch.equal(other[large], block[large])
        again = pack_in_blocks(weight, in_place=True)
        assert torch.equal(again.data, packed.data)
        assert torch.equal(again.exponents, packed.exponents)

    try:
        check()
    finally:
        native.library.cache_clear()


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ({}, "float32", "weights are float32"),
        ({"multi_query": False}, "bfloat16", "not multi-query"),
        ({"activation_function": "relu"}, "bfloat16", "activation relu"),
        ({"n_embd": 96}, "bfloat16", "heads of 32"),
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
    native.library.cache_clear()
    try:
        with caplog.at_level("INFO"):
            runner = runner_of(checkpoint, "auto")
        assert runner.run(batch_of([(0, 3)], runner.model.vocab_size, 0)) is not None
        assert "PyTorch's kernels run instead of ours" in caplog.text
        assert list(tmp_path.rglob("*.so")) == []
    finally:
        native.library.cache_clear()


@needs_kernel
def test_where_no_cache_can_be_written_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(native, "_find", lambda variant: None)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert native._load(native.variant()).starcoder_forward
    assert list(scratch.iterdir()) == []


@needs_kernel
@pytest.mark.parametrize("variant", native.VARIANTS)
def test_it_is_compiled_once_and_a_source_that_does_not_compile_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variant: native.Variant
) -> None:
    path = native.build(tmp_path, variant)
    assert path == tmp_path / native.file_name(variant)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert len({native.file_name(v) for v in native.VARIANTS}) == len(native.VARIANTS)
    broken = tmp_path / "broken.c"
    broken.write_text("int f(void) { return }\n")
    monkeypatch.setattr(native, "SOURCE", broken)
    assert native.file_name(variant) != path.name
    with pytest.raises(native.Unavailable, match=r"refuses the kernel: .*error"):
        native.build(tmp_path, variant)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, "broken.c"])
