"""What reports say of a machine and of the Python on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from model.device import programs_of
from model.machine import available_cores, cpu_facts, versions_of

TWO_CORES = """\
processor\t: 0
model name\t: A CPU @ 2.00GHz: fast
flags\t\t: fpu avx2 amx_bf16
bugs\t\t:

processor\t: 1
model name\t: Another CPU
"""


def test_of_a_cpu_the_first_core_is_told(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(TWO_CORES)
    told = {"processor": "0", "model name": "A CPU @ 2.00GHz: fast", "flags": "fpu avx2 amx_bf16", "bugs": ""}
    assert cpu_facts(path) == told
    path.write_text(TWO_CORES.partition("\n\n")[0])
    assert cpu_facts(path) == told, "of one core"
    assert cpu_facts(tmp_path / "none") == {}


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0: {1, 5, 7}}[pid], raising=False)
    assert available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


def test_versions_are_of_what_is_installed() -> None:
    found = versions_of(["no-such-package", "torch"])
    assert found == {"python": platform.python_version(), "torch": importlib.metadata.version("torch")}


def test_a_kernel_has_a_program_for_each_multiprocessor_of_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = {"cuda:1": SimpleNamespace(multi_processor_count=132)}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties[str(device)])
    assert programs_of(torch.device("cuda:1")) == 132
    assert programs_of(torch.device("cpu")) == 8
