"""The compiled kernel: built once for a source, a compiler and a PyTorch, then found again.

Also a command: `python -m model.kernels.native.library` compiles it ahead, for every CPU that can run it, into this
package's own directory (for an image whose file system cannot be written to, and that holds no compiler).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from model.statistics import Products

HERE = Path(__file__).parent
SOURCE = HERE / "forward.c"
FLAGS = ("-O3", "-fPIC", "-fopenmp", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mfma")
Variant = Products
"""How bfloat16 is multiplied: by AMX, by AVX512-BF16, or in blocks of 16-bit integers by AVX512-VNNI."""

VARIANTS: tuple[Variant, ...] = ("amx", "bf16", "int16")
_MORE_FLAGS: dict[Variant, tuple[str, ...]] = {
    "amx": ("-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
    "bf16": ("-mavx512bf16",),
    "int16": (),
}
COMPILE_SECONDS = 120.0
CPU_FACTS = Path("/proc/cpuinfo")
AMX_REFUSED = "the system does not let this process use it"


class Unavailable(RuntimeError):
    """The kernel cannot be had here; the message says why."""


def cache_directory() -> Path:
    """Where compiled kernels are kept: `$XDG_CACHE_HOME/starcoder-serve` or `~/.cache/starcoder-serve`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "starcoder-serve"


def variants() -> tuple[Variant, ...]:
    """Those that this CPU runs, the fastest first. Raises Unavailable where there is none."""
    if platform.machine() not in ("x86_64", "AMD64") or not (
        torch.cpu._is_avx512_supported() and torch.cpu._is_vnni_supported()
    ):
        raise Unavailable("this CPU has no AVX-512 with VNNI")
    bf16 = torch.cpu._is_avx512_bf16_supported()
    found: list[Variant] = []
    if bf16 and has_amx():
        found.append("amx")
    # Intel's VDPBF16PS is no faster than float32: on Emerald Rapids blocks of integers took 0.37 of its time
    if bf16 and vendor() == "AuthenticAMD":
        found.append("bf16")
    return (*found, "int16")


def has_amx() -> bool:
    """Whether the processor has AMX, and Linux lets this process use it, which is to be asked for once.

    https://docs.kernel.org/arch/x86/xstate.html. The permission holds for all threads.
    """
    return torch.cpu._is_amx_tile_supported() and torch.cpu._init_amx()


def vendor() -> str:
    """As the processor names it; empty where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in CPU_FACTS.read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    return ""


@dataclass(frozen=True)
class Kernel:
    """What runs here. shortfall: why it is not the fastest variant that this CPU knows; None where it is."""

    library: ctypes.CDLL
    variant: Variant
    shortfall: str | None = None


@functools.cache
def kernel() -> Kernel:
    """The fastest variant that can be had, compiled if it is not there yet. Raises Unavailable."""
    *others, last = variants()
    shortfall = f"no AMX: {AMX_REFUSED}" if torch.cpu._is_amx_tile_supported() and not has_amx() else None
    for variant in others:
        try:
            return Kernel(_declare(_load(variant)), variant, shortfall)
        except Unavailable as error:  # an older compiler does not know every instruction
            shortfall = shortfall or f"not {variant}: {error}"
    return Kernel(_declare(_load(last)), last, shortfall)


def library() -> ctypes.CDLL:
    """The compiled kernel. Raises Unavailable."""
    return kernel().library


def _declare(found: ctypes.CDLL) -> ctypes.CDLL:
    found.starcoder_forward.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    found.starcoder_forward.restype = None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    found.starcoder_activate.argtypes = [number, pointer, pointer, number]
    found.starcoder_activate.restype = None
    if hasattr(found, "starcoder_to_blocks"):  # products_int16.h
        found.starcoder_to_blocks.argtypes = [pointer, pointer, number, number, ctypes.c_int]
        found.starcoder_to_blocks.restype = None
    return found


def flags(variant: Variant) -> tuple[str, ...]:
    """The compiler's."""
    return (*FLAGS, *_MORE_FLAGS[variant])


def file_name(variant: Variant) -> str:
    """Changes with everything that the file depends on."""
    sources = [SOURCE, *sorted(HERE.glob("*.h"))]
    key = "\0".join([*(s.read_text() for s in sources), *flags(variant), torch.__version__])
    return f"forward-{variant}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"


def _find(variant: Variant) -> Path | None:
    for directory in (HERE, cache_directory()):
        path = directory / file_name(variant)
        # A file that somebody else may have put there is not run.
        if path.is_file() and (directory == HERE or path.stat().st_uid == os.getuid()):
            return path
    return None


def _load(variant: Variant) -> ctypes.CDLL:
    try:
        return _open(variant)
    except OSError as error:
        raise Unavailable(f"the kernel cannot be loaded: {error}") from error


def _open(variant: Variant) -> ctypes.CDLL:
    if (path := _find(variant)) is not None:
        return ctypes.CDLL(os.fspath(path))
    directory = cache_directory()
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(directory, os.W_OK) and directory.stat().st_uid == os.getuid():
            return ctypes.CDLL(os.fspath(build(directory, variant)))
    # Once it is loaded, the file is needed no more.
    with tempfile.TemporaryDirectory(prefix="starcoder-native-") as scratch:
        return ctypes.CDLL(os.fspath(build(Path(scratch), variant)))


def compiler() -> str:
    """`$CC`, or the first C compiler on the path. Raises Unavailable."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    raise Unavailable("no C compiler is installed")


def build(directory: Path, variant: Variant) -> Path:
    """Compile into `directory`. Two processes may do so at once. Raises Unavailable with what the compiler said."""
    target = directory / file_name(variant)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        made, object_file = Path(scratch) / "forward.so", Path(scratch) / "forward.o"
        _run([compiler(), *flags(variant), "-c", os.fspath(SOURCE), "-o", os.fspath(object_file)])
        _run([compiler(), "-shared", os.fspath(object_file), *_openmp(), "-o", os.fspath(made)])
        made.replace(target)
    return target


def _openmp() -> list[str]:
    """PyTorch's own OpenMP: the threads of a second one would spin against its threads."""
    own = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return [os.fspath(own[0])] if own else ["-fopenmp"]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the compiler does not run: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        raise Unavailable(f"the compiler refuses the kernel: {(lines or ['it says nothing'])[0][:200]}")


def build_all(directory: Path) -> list[Path]:
    """Every variant that the compiler knows. Raises Unavailable where it knows none."""
    made: list[Path] = []
    for variant in VARIANTS:
        try:
            made.append(build(directory, variant))
        except Unavailable as error:
            print(f"{variant} is left out: {error}")
    if not made:
        raise Unavailable("no variant can be compiled")
    return made


if __name__ == "__main__":
    for one in build_all(HERE):
        print(one)
