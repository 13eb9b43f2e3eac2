"""The compiled kernel: built once for a source, a compiler and a PyTorch, then found again.

Also a command: `python -m model.native.library` compiles it ahead, into this package's own directory (for an image
whose file system cannot be written to, and that holds no compiler).
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
from pathlib import Path

import torch

HERE = Path(__file__).parent
SOURCE = HERE / "forward.c"
FLAGS = ("-O3", "-fPIC", "-fopenmp", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16", "-mavx512vnni", "-mfma")
COMPILE_SECONDS = 120.0


class Unavailable(RuntimeError):
    """The kernel cannot be had here; the message says why."""


def cache_directory() -> Path:
    """Where compiled kernels are kept: `$XDG_CACHE_HOME/starcoder-serve` or `~/.cache/starcoder-serve`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "starcoder-serve"


@functools.cache
def library() -> ctypes.CDLL:
    """The kernel, compiled if it is not there yet. Raises Unavailable."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.cpu._is_avx512_bf16_supported():
        raise Unavailable("this CPU has no AVX512-BF16")
    try:
        found = _load()
    except OSError as error:
        raise Unavailable(f"the kernel cannot be loaded: {error}") from error
    found.starcoder_forward.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    found.starcoder_forward.restype = None
    return found


def file_name() -> str:
    """Changes with everything that the file depends on."""
    key = "\0".join([SOURCE.read_text(), *FLAGS, torch.__version__])
    return f"forward-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"


def _find() -> Path | None:
    for directory in (HERE, cache_directory()):
        path = directory / file_name()
        # A file that somebody else may have put there is not run.
        if path.is_file() and (directory == HERE or path.stat().st_uid == os.getuid()):
            return path
    return None


def _load() -> ctypes.CDLL:
    if (path := _find()) is not None:
        return ctypes.CDLL(os.fspath(path))
    directory = cache_directory()
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(directory, os.W_OK) and directory.stat().st_uid == os.getuid():
            return ctypes.CDLL(os.fspath(build(directory)))
    # Once it is loaded, the file is needed no more.
    with tempfile.TemporaryDirectory(prefix="starcoder-native-") as scratch:
        return ctypes.CDLL(os.fspath(build(Path(scratch))))


def compiler() -> str:
    """`$CC`, or the first C compiler on the path. Raises Unavailable."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    raise Unavailable("no C compiler is installed")


def build(directory: Path) -> Path:
    """Compile into `directory`. Two processes may do so at once. Raises Unavailable with what the compiler said."""
    target = directory / file_name()
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        made, object_file = Path(scratch) / "forward.so", Path(scratch) / "forward.o"
        _run([compiler(), *FLAGS, "-c", os.fspath(SOURCE), "-o", os.fspath(object_file)])
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


if __name__ == "__main__":
    print(build(HERE))
