"""What compiled kernels need, remembered from one run of the tests to the next, by Triton's keys.

A key is made of a kernel's source, types and constants, of the GPU, and of Triton and its compilers: what has the same
key is the same binary. To compile all takes a minute of the processor. A run compiles what is new, and a few by chance,
to see whether they are as they are remembered. `pytest tests/model/kernels --record-kernels` writes the file.
"""

from __future__ import annotations

import hashlib
import json
import platform
import random
import re
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

RECORD = Path(__file__).parents[1] / "model/kernels/compiled.json"
NOTE, USED = "note.json", "used"
"""Beside a kernel's files in Triton's cache: what it needs, and that a program had it."""
_METADATA = ("name", "target", "num_warps", "num_ctas", "shared", "tmem_size")
"""Of Triton's, what launches need."""

Note = dict[str, Any]
"""Of one binary: kernel, constants, metadata; registers of a thread, and bytes of stack to which they spill; wgmma:
whether it multiplies by the instructions of a Hopper GPU; ptx: a digest of the instructions; stack_on_a100: if it is
assembled for one, where one gets what an L4 gets. role: of the program that compiled it first."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-kernels", action="store_true", help=f"compile all, and write {RECORD.name}")


def machine() -> dict[str, str]:
    """Under which keys are the same."""
    import triton

    version = ".".join(platform.python_version_tuple()[:2])
    return {"triton": triton.__version__, "python": version, "machine": platform.machine()}


def read() -> dict[str, Note]:
    """By key; nothing on a machine whose keys are others."""
    kept = json.loads(RECORD.read_text())
    return {note.pop("key"): note for note in kept["kernels"]} if kept["on"] == machine() else {}


def write(notes: Mapping[str, Note]) -> None:
    lines = sorted((note["kernel"], note["metadata"]["target"]["arch"], key, note) for key, note in notes.items())
    kernels = ",\n".join(json.dumps({"key": key, **note}, sort_keys=True) for _, _, key, note in lines)
    RECORD.write_text(f'{{"on": {json.dumps(machine())}, "kernels": [\n{kernels}\n]}}\n')


def remember(cache: Path, notes: Mapping[str, Note]) -> None:
    """So that processes with this cache find these kernels compiled: in an absent GPU's program there is nothing."""
    for key, note in notes.items():
        (cache / key).mkdir(parents=True)
        name = note["metadata"]["name"]
        files = {f"{name}.{kind}": cache / key / f"{name}.{kind}" for kind in ("json", "ptx", "cubin")}
        for file in files.values():
            file.write_text(json.dumps(note["metadata"]) if file.suffix == ".json" else "")
        paths = {file: str(path) for file, path in files.items()}
        (cache / key / f"__grp__{name}.json").write_text(json.dumps({"child_paths": paths}))
        (cache / key / NOTE).write_text(json.dumps(note))


def noted(cache: Path) -> dict[str, Note]:
    """By key: of all kernels that programs have noted."""
    return {path.parent.name: json.loads(path.with_name(NOTE).read_text()) for path in cache.glob(f"*/{USED}")}


def chosen(notes: Mapping[str, Note], role: str, count: int) -> Collection[str]:
    """Keys of a few that a program of this role will compile."""
    return random.sample(sorted(key for key, note in notes.items() if note["role"] == role), count)


def note_all(capability: int, role: str = "") -> list[Note]:
    """For a program: notes what it has compiled for this capability, or found compiled."""
    from model.kernels import ahead_of_time

    return [_note(compiled, capability, role) for compiled in ahead_of_time.binaries(capability)]


def _note(compiled: Any, capability: int, role: str) -> Note:
    path = Path(next(iter(compiled.metadata_group.values()))).parent / NOTE
    if not path.exists():
        names, ptx = compiled.src.fn.arg_names, compiled.asm["ptx"]
        registers, stack = resources(compiled.asm["cubin"])
        metadata = {name: getattr(compiled.metadata, name) for name in _METADATA}
        target = {name: getattr(metadata["target"], name) for name in ("backend", "arch", "warp_size")}
        on_a100 = capability == 89 and "fp8" not in str(compiled.src.signature) + ptx
        note = {
            "kernel": compiled.metadata.name,
            "constants": {names[place[0]]: value for place, value in compiled.src.constants.items()},
            "metadata": metadata | {"target": target},
            "registers": registers,
            "stack": stack,
            "wgmma": "wgmma" in ptx,
            "ptx": _digest(ptx.replace(f"sm_{capability}", "sm_")),
            "stack_on_a100": _assembled(ptx.replace("sm_89", "sm_80"), "sm_80") if on_a100 else None,
            "role": role,
        }
        path.write_text(json.dumps(note))
    path.with_name(USED).touch()
    found: Note = json.loads(path.read_text())
    return found


def _digest(ptx: str) -> str:
    """Of its instructions: what a debugger wants to know of them has the path of this checkout."""
    code, _, _ = ptx.partition("\t.file\t")
    lines = [line for line in code.splitlines() if not line.startswith("\t.loc\t")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _assembled(ptx: str, gpu: str) -> int:
    """Bytes of stack of a thread."""
    import triton

    with tempfile.TemporaryDirectory() as directory:
        written, made = (Path(directory) / name for name in ("kernel.ptx", "kernel.cubin"))
        written.write_text(ptx)
        subprocess.run([triton.knobs.nvidia.ptxas.path, "--gpu-name", gpu, written, "-o", made], check=True)
        return resources(made.read_bytes())[1]


def resources(binary: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread, by the tool that comes with Triton."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])
