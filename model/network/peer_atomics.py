"""Whether kernels of two GPUs may both change one word of memory, as their driver says.

The fused all-reduce signals so. GPUs that NVLink connects may; over PCIe, where one can read and write the other's
memory, what both change at once can be lost. PyTorch does not tell them apart.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_ATOMICS = 3
"""NVML_P2P_CAPS_INDEX_ATOMICS, of nvmlDeviceGetP2PStatus in nvml.h."""


def require_peer_atomics(own: str, others: Collection[str], load: Callable[[str], Any] = ctypes.CDLL) -> None:
    """GPUs by `gpu_uuid`, which the driver knows also where a process sees one of them alone.

    Raises RuntimeError where one of the others is not known for it, OSError without the driver's library.
    """
    nvml = load(_LIBRARY)
    _succeed(nvml.nvmlInit_v2(), "starting")
    try:
        handle = _handle(nvml, own)
        for other in others:
            status = ctypes.c_uint()
            _succeed(
                nvml.nvmlDeviceGetP2PStatus(handle, _handle(nvml, other), _ATOMICS, ctypes.byref(status)),
                f"asked what connects GPU-{own} and GPU-{other}",
            )
            if status.value != 0:
                raise RuntimeError(
                    f"GPU-{own} and GPU-{other} cannot both change one word of memory (NVML's status {status.value}): "
                    "that needs NVLink"
                )
    finally:
        nvml.nvmlShutdown()


def _handle(nvml: Any, uuid: str) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    _succeed(nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode(), ctypes.byref(handle)), f"looking for GPU-{uuid}")
    return handle


def _succeed(code: int, doing: str) -> None:
    if code != 0:
        raise RuntimeError(f"the driver's library, {doing}, gives {code}")
