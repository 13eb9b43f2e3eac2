"""The machine and the versions a result was measured with; nothing that names the machine or its owner."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from model.machine import available_cores, cpu_facts, versions_of

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
_PACKAGES = ("starcoder-serve", "torch", "triton", "transformers", "ray", "numpy")


def describe_machine() -> dict[str, Any]:
    """CPU model, usable cores, the vector instructions that matter, memory, and GPUs."""
    info = cpu_facts()
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "cores": available_cores(),
        "flags": [flag for flag in _FLAGS if flag in info.get("flags", info.get("Features", "")).split()],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "gpus": _gpus(),
    }


def versions() -> dict[str, str]:
    """Of Python and of what the measured code is made of; the commit where there is one."""
    found = versions_of(_PACKAGES)
    commit = commit_of(Path(__file__).parent)
    return {**found, "commit": commit} if commit else found


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
