"""Which backend runs and as what type, by settings and by what this machine can do."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from model.backends import choice
from model.backends.agreement import ELSEWHERE, Agreement
from model.backends.choice import Choice, choose, choose_device
from model.checkpoint.weights import Share
from model.config import ConfigError, EngineConfig, ModelConfig
from model.network.parallel import TensorParallel
from model.statistics import ForwardPath
from tests.support.native import needs_kernel

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SHAPE = {"vocab_size": 64, "n_positions": 64, "n_embd": 192, "n_head": 3, "n_layer": 1, "n_inner": 64}
MODEL = ModelConfig(**SHAPE)


def with_another_rank(monkeypatch: pytest.MonkeyPatch, can: bool) -> TensorParallel:
    """A group of two, the other of which can do everything or nothing."""
    monkeypatch.setattr(Agreement, "everywhere", lambda _, here: here and can)
    return TensorParallel(0, 2)


@needs_kernel
@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ({}, {}, torch.bfloat16),
        ({"multi_query": False}, {}, torch.bfloat16),
        ({"n_embd": 1040, "n_head": 1}, {}, torch.float32),
        ({}, {"cpu_kernels": "torch"}, torch.float32),
        ({}, {"attention": "triton"}, torch.float32),
        ({}, {"dtype": "float32"}, torch.float32),
    ],
)
def test_where_the_cpu_cannot_multiply_bfloat16_only_our_kernels_choose_it(
    monkeypatch: pytest.MonkeyPatch, shape: dict[str, object], options: dict[str, str], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(choice, "_triton_obstacle", lambda *_: None)
    model = ModelConfig(**{**SHAPE, **shape})
    chosen = choose(EngineConfig(model="x", device="cpu", **options), model, TensorParallel(), CPU)
    assert chosen.dtype is expected


@pytest.mark.parametrize("error", [None, RuntimeError("off by 3"), OSError("no compiler")])
def test_by_itself_a_gpu_gets_the_kernels_only_if_they_are_right(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception | None
) -> None:
    triton_check = pytest.importorskip("model.kernels.triton_check")

    def max_error(*_: object) -> float:
        if error is not None:
            raise error
        return 0.0

    monkeypatch.setattr(triton_check, "max_error", max_error)
    config = EngineConfig(model="x", dtype="bfloat16")
    chosen = choose(config, MODEL, TensorParallel(), GPU)
    assert chosen == Choice("cuda", torch.bfloat16, "triton" if error is None else "torch")
    assert error is None or str(error) in caplog.text
    assert choose(config, MODEL, TensorParallel(), CPU).backend != "cuda"


@pytest.mark.parametrize("found", [0.04, 0.06, float("nan")])
def test_the_kernels_may_be_off_by_what_bfloat16_rounds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, found: float
) -> None:
    triton_check = pytest.importorskip("model.kernels.triton_check")
    monkeypatch.setattr(triton_check, "max_error", lambda *_: found)
    chosen = choose(EngineConfig(model="x", dtype="bfloat16"), MODEL, TensorParallel(), GPU)
    assert (chosen.attention == "triton") == (found == 0.04) == ("attention=triton is off by" not in caplog.text)


@pytest.mark.parametrize("here", [None, "no compiler"])
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("device", "what", "auto", "by_name", "fallback"),
    [
        (CPU, "native_obstacle", {}, {"cpu_kernels": "native"}, Choice("plain", torch.bfloat16)),
        (CPU, "native_obstacle", None, {"quantization": "int8"}, None),
        (CPU, "_triton_fault", None, {"attention": "triton"}, None),
        (CPU, "_quantization_obstacle", None, {"quantization": "int8", "attention": "triton"}, None),
        (GPU, "_triton_fault", {}, {"attention": "triton"}, Choice("cuda", torch.bfloat16)),
        (GPU, "_quantization_obstacle", None, {"quantization": "fp8"}, None),
    ],
)
def test_what_one_rank_cannot_run_no_rank_runs(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    here: str | None,
    there: bool,
    device: torch.device,
    what: str,
    auto: dict[str, str] | None,
    by_name: dict[str, str],
    fallback: Choice | None,
) -> None:
    for name in ("native_obstacle", "_triton_fault", "_quantization_obstacle"):
        monkeypatch.setattr(choice, name, lambda *_: None)
    monkeypatch.setattr(choice, what, lambda *_: here)

    group = with_another_rank(monkeypatch, there)

    def chosen(options: dict[str, str]) -> Choice:
        return choose(EngineConfig(model="x", dtype="bfloat16", **options), MODEL, group, device)

    if here is None and there:
        assert chosen(by_name) not in (fallback, None)
        return
    reason = here or ELSEWHERE
    if by_name:
        with pytest.raises(ConfigError, match=reason):
            chosen(by_name)
    if auto is not None:
        with caplog.at_level("INFO"):
            assert chosen(auto) == fallback
        assert reason in caplog.text


@pytest.mark.parametrize("device", [CPU, GPU])
def test_all_ranks_compute_with_the_type_that_all_of_them_multiply(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    config = EngineConfig(model="x", attention="torch", cpu_kernels="torch")
    assert choose(config, MODEL, with_another_rank(monkeypatch, True), device).dtype is torch.bfloat16
    other = torch.float32 if device.type == "cpu" else torch.float16
    assert choose(config, MODEL, with_another_rank(monkeypatch, False), device).dtype is other


@pytest.mark.parametrize(
    ("head_dim", "dtype", "runs"),
    [(128, "bfloat16", True), (128, "float32", False), (32, "float32", True), (256, "float16", False)],
)
def test_a_gpu_attends_by_itself_only_where_its_registers_suffice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, head_dim: int, dtype: str, runs: bool
) -> None:
    triton_check = pytest.importorskip("model.kernels.triton_check")
    monkeypatch.setattr(triton_check, "max_error", lambda *_: 0.0)
    model = ModelConfig(**{**SHAPE, "n_embd": 2 * head_dim, "n_head": 2})
    config = EngineConfig(model="x", dtype=dtype)
    assert (choose(config, model, TensorParallel(), GPU).attention == "triton") == runs
    assert runs != (f"heads wider than {32 if dtype == 'float32' else 128} in {dtype}" in caplog.text)
    by_name = EngineConfig(model="x", dtype=dtype, attention="triton")
    if not runs:
        with pytest.raises(ConfigError, match=f"head_dim={head_dim}"):
            choose(by_name, model, TensorParallel(), GPU)


def test_kernels_that_were_asked_for_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    triton_check = pytest.importorskip("model.kernels.triton_check")
    config = EngineConfig(model="x", dtype="bfloat16", attention="triton")
    monkeypatch.setattr(triton_check, "max_error", lambda *_: 0.0)
    assert choose(config, MODEL, TensorParallel(), GPU).attention == "triton"
    monkeypatch.setattr(triton_check, "max_error", lambda *_: 0.06)
    with pytest.raises(ConfigError, match="is off by"):
        choose(config, MODEL, TensorParallel(), GPU)


@pytest.mark.parametrize(
    ("options", "obstacle", "old_cpu", "expected", "level"),
    [
        ({}, None, False, ForwardPath("native", products="amx"), None),
        ({}, "no C compiler is installed", False, ForwardPath("torch", "no C compiler is installed"), "WARNING"),
        ({"dtype": "bfloat16"}, "tensor parallelism", False, ForwardPath("torch", "tensor parallelism"), "WARNING"),
        ({}, "this CPU has no AVX-512", True, ForwardPath("torch", "this CPU has no AVX-512"), "INFO"),
        ({"dtype": "float32"}, "weights are float32", False, ForwardPath("torch", "weights are float32"), "INFO"),
        ({"cpu_kernels": "torch"}, None, False, ForwardPath("torch", "cpu_kernels=torch"), None),
    ],
)
def test_what_runs_on_a_cpu_is_told_and_a_warning_where_more_could_be_expected(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, str],
    obstacle: str | None,
    old_cpu: bool,
    expected: ForwardPath,
    level: str | None,
) -> None:
    monkeypatch.setattr(choice, "native_obstacle", lambda *_: obstacle)
    monkeypatch.setattr(choice, "native_products", lambda: ("amx", None))
    monkeypatch.setattr(choice, "native_runs_on_this_cpu", lambda: not old_cpu)
    with caplog.at_level("INFO"):
        chosen = choose(EngineConfig(model="x", device="cpu", **options), MODEL, TensorParallel(), CPU)
    assert chosen.forward == expected
    assert chosen.backend == ("native" if expected.path == "native" else "plain")
    assert [r.levelname for r in caplog.records if "PyTorch's operations" in r.message] == ([level] if level else [])


def test_a_slower_variant_than_the_cpu_knows_is_told_and_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "native_obstacle", lambda *_: None)
    monkeypatch.setattr(choice, "native_products", lambda: ("int16", "not amx: the compiler is old"))
    chosen = choose(EngineConfig(model="x", device="cpu"), MODEL, TensorParallel(), CPU)
    assert chosen.forward == ForwardPath("native", "not amx: the compiler is old", "int16")
    assert [r.levelname for r in caplog.records if "could be faster" in r.message] == ["WARNING"]


@pytest.mark.parametrize(
    ("attention", "fault", "expected"),
    [
        ("auto", None, ForwardPath("triton")),
        ("auto", "is off by 3", ForwardPath("torch", "attention=triton is off by 3")),
        ("torch", None, ForwardPath("torch", "attention=torch")),
    ],
)
def test_what_runs_on_a_gpu_is_told(
    monkeypatch: pytest.MonkeyPatch, attention: str, fault: str | None, expected: ForwardPath
) -> None:
    monkeypatch.setattr(choice, "_triton_fault", lambda *_: fault)
    config = EngineConfig(model="x", dtype="bfloat16", attention=attention)
    assert choose(config, MODEL, TensorParallel(), GPU).forward == expected


@pytest.mark.parametrize(
    ("asked", "gpus", "rank", "expected"),
    [
        ("auto", 0, 1, "cpu"),
        ("cpu", 0, 0, "cpu"),
        ("cpu", 2, 1, "cpu"),
        ("auto", 1, 3, "cuda:0"),  # that its process sees
        ("auto", 4, 3, "cuda:3"),
        ("cuda", 2, 1, "cuda:1"),
        ("cuda", 2, 2, "cuda:0"),
        ("cuda", 0, 0, None),
    ],
)
def test_a_rank_has_a_device_of_its_own_where_there_are_enough(
    asked: str, gpus: int, rank: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if expected is None:
        with pytest.raises(ConfigError, match="device=cuda"):
            choose_device(asked, rank)
    else:
        assert choose_device(asked, rank) == torch.device(expected)


@pytest.mark.parametrize("attention", ["auto", "triton"])
@pytest.mark.parametrize(("size", "stripes"), [(1, 1), (3, 1), (6, 2)])
def test_the_kernels_are_checked_for_the_shapes_that_a_rank_runs(
    size: int, stripes: int, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton_check = pytest.importorskip("model.kernels.triton_check")
    takes, asked = inspect.signature(triton_check.max_error), []

    def max_error(*arguments: Any) -> float:
        asked.append(takes.bind(*arguments).arguments)
        return 0.0

    monkeypatch.setattr(triton_check, "max_error", max_error)
    monkeypatch.setattr(Agreement, "everywhere", lambda _, here: here)
    model = ModelConfig(**{**SHAPE, "n_embd": 384, "n_head": 12})
    config = EngineConfig(model="x", dtype="bfloat16", attention=attention, block_size=32)
    assert choose(config, model, TensorParallel(0, size, stripes), GPU).attention == "triton"
    shape = {"n_embd": 384, "heads": 12 // size, "width": 32, "block_size": 32, "stripes": stripes}
    assert asked == [{**shape, "dtype": torch.bfloat16, "device": GPU}]


@pytest.mark.parametrize(("size", "all_reduce"), [(2, "fused"), (1, "fused"), (2, "nccl")])
@pytest.mark.parametrize(
    "chosen",
    [
        Choice("cuda", torch.bfloat16, "triton"),
        Choice("cuda", torch.bfloat16, "torch"),
        Choice("native", torch.bfloat16),
        Choice("plain", torch.float32),
    ],
    ids=lambda chosen: f"{chosen.backend} {chosen.attention}",
)
def test_who_asked_for_a_fused_all_reduce_is_told_that_there_is_none(
    chosen: Choice, size: int, all_reduce: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for backend in ("CudaBackend", "NativeBackend", "PlainBackend"):
        monkeypatch.setattr(choice, backend, lambda *_, **__: None)
    monkeypatch.setattr(choice, "torch_attention", lambda *_: None)
    share = Share(MODEL, TensorParallel(0, size), CPU, chosen.dtype)
    chosen.load(EngineConfig(model="m", all_reduce=all_reduce), share, lambda place: 0)
    told = size > 1 and all_reduce == "fused" and chosen.attention != "triton"
    assert ("ranks add up by collectives" in caplog.text) == told
