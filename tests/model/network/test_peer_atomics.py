"""What the driver is asked of GPUs, and what of its answers keeps the fused all-reduce away."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from model.network.peer_atomics import require_peer_atomics


class Nvml:
    """As nvml.h has it: handles of GPUs by their identifiers, and a status for two of them and what is asked."""

    def __init__(self, status: dict[tuple[str, str], int], known: str = "abc", starts: int = 0) -> None:
        self._status, self._known, self._starts = status, known, starts
        self.asked: list[tuple[str, str, int]] = []
        self.open = 0

    def nvmlInit_v2(self) -> int:
        self.open += self._starts == 0
        return self._starts

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        name = uuid.decode().removeprefix("GPU-")
        if uuid[:4] != b"GPU-" or name not in self._known:
            return 6
        handle._obj.value = ord(name)
        return 0

    def nvmlDeviceGetP2PStatus(self, one: ctypes.c_void_p, other: ctypes.c_void_p, index: int, status: Any) -> int:
        pair = chr(one.value or 0), chr(other.value or 0)
        self.asked.append((*pair, index))
        status._obj.value = self._status.get(pair, 0)
        return 0


def test_gpus_that_may_change_one_word() -> None:
    nvml = Nvml({})
    require_peer_atomics("a", ["b", "c"], lambda name: nvml)
    assert nvml.asked == [("a", "b", 3), ("a", "c", 3)]
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("nvml", "said"),
    [
        (Nvml({("a", "c"): 5}), r"GPU-a and GPU-c cannot both change .* status 5.*NVLink"),
        (Nvml({}, known="ab"), "looking for GPU-c, gives 6"),
        (Nvml({}, starts=9), "starting, gives 9"),
    ],
)
def test_others_are_named(nvml: Nvml, said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        require_peer_atomics("a", ["b", "c"], lambda name: nvml)
    assert nvml.open == 0, "what was begun has ended"


def test_without_a_driver() -> None:
    with pytest.raises(OSError, match="no-such"):
        require_peer_atomics("a", ["b"], lambda name: ctypes.CDLL(f"no-such-{name}"))
