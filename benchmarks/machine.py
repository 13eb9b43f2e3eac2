"""The machine and the versions a result was measured with; nothing that names the machine or its owner."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
_PACKAGES = ("starcoder-serve", "torch", "triton", "transformers", "ray", "numpy")


def describe_machine() -> dict[str, Any]:
    """CPU model, usable cores, the vector instructions that matter, memory, and GPUs."""
    info = _cpu_info()
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [flag for flag in _FLAGS if flag in info.get("flags", info.get("Features", "")).split()],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "gpus": _gpus(),
    }


def versions() -> dict[str, str]:
    """Of Python and of what the measured code is made of; the commit where there is one."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = commit_of(Path(__file__).parent)
    return {**found, "commit": commit} if commit else found


def _cpu_info(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    if not path.is_file():
        return {}
    first = path.read_text().split("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


@cache
def _gpus() -> list[str]:
    """Asked once: a GPU that has failed may not answer again."""
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


@cache
def commit_of(root: Path) -> str | None:
    """A checkout's commit, with a + where files differ from it."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
