"""The kernel's library, compiled and found again, and the layouts of its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.kernels.native import library as native
from model.kernels.native.packing import BlockedWeight, pack, pack_in_blocks
from tests.support.native import needs_kernel, only


@pytest.mark.parametrize(
    ("facts", "bf16", "amx", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\n", True, False, ("bf16", "int16")),
        ("vendor_id\t: AuthenticAMD\n", False, False, ("int16",)),
        ("processor\t: 0\nvendor_id\t: GenuineIntel\n", True, False, ("int16",)),
        ("processor\t: 0\nvendor_id\t: GenuineIntel\n", True, True, ("amx", "int16")),
        (None, True, False, ("int16",)),
    ],
)
def test_variants_are_those_of_the_processor_the_fastest_first(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    facts: str | None,
    bf16: bool,
    amx: bool,
    expected: tuple[native.Variant, ...],
) -> None:
    monkeypatch.setattr(native.platform, "machine", lambda: "x86_64")
    for flag, found in (("avx512", True), ("vnni", True), ("avx512_bf16", bf16), ("amx_tile", amx)):
        monkeypatch.setattr(torch.cpu, f"_is_{flag}_supported", lambda found=found: found)
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: True)
    monkeypatch.setattr(native, "CPU_FACTS", tmp_path / "cpuinfo")
    if facts is not None:
        native.CPU_FACTS.write_text(facts)
    assert native.variants() == expected
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: False)  # Linux does not let this process have the tiles
    assert native.variants() == tuple(v for v in expected if v != "amx")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(native.Unavailable, match="VNNI"):
        native.variants()


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
def test_blocks_hold_what_bfloat16_holds(monkeypatch: pytest.MonkeyPatch) -> None:
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

    with only(monkeypatch, "int16"):
        check()


@pytest.fixture
def hasty_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes a tenth of the time: what it makes is not run."""
    monkeypatch.setattr(native, "FLAGS", ("-O0", *native.FLAGS[1:]))


@needs_kernel
@pytest.mark.usefixtures("hasty_compiler")
def test_where_no_cache_can_be_written_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(native, "_find", lambda variant: None)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert native._load(native.variants()[0]).starcoder_forward
    assert list(scratch.iterdir()) == []


@pytest.fixture
def old_compiler(hasty_compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """One that does not know AMX, and nothing compiled before."""
    command = tmp_path / "old-cc"
    refusal = "echo \"error: unrecognized command-line option '-mamx-tile'\" >&2; exit 1"
    command.write_text(f'#!/bin/sh\ncase "$*" in *-mamx*) {refusal};; esac\nexec {native.compiler()} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("CC", str(command))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_find", lambda variant: None)
    native.kernel.cache_clear()
    yield
    native.kernel.cache_clear()


@needs_kernel
@pytest.mark.usefixtures("old_compiler")
def test_what_a_compiler_does_not_know_is_replaced_by_the_next_variant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "variants", lambda: ("amx", "int16"))
    found = native.kernel()
    assert found.variant == "int16"
    assert found.library.starcoder_forward
    assert found.shortfall is not None
    assert re.match(r"not amx: the compiler refuses the kernel: .*-mamx", found.shortfall)
    assert [p.name for p in native.build_all(tmp_path)] == [native.file_name(v) for v in ("bf16", "int16")]
    assert capsys.readouterr().out.startswith("amx is left out: the compiler refuses")


@needs_kernel
def test_a_system_that_keeps_amx_for_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: False)
    native.kernel.cache_clear()
    found = native.kernel()
    native.kernel.cache_clear()
    assert found.variant != "amx"
    assert found.shortfall == f"no AMX: {native.AMX_REFUSED}"


@needs_kernel
@pytest.mark.usefixtures("hasty_compiler")
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
