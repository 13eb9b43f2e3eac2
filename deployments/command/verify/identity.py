"""What was verified: the checkpoint's files, the versions, the machine. Nothing that names the machine or its owner."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

from model.checkpoint.files import Checkpoint
from model.checkpoint.hub import revision_of
from model.machine import available_cores, cpu_facts, versions_of

_PACKAGES = ("starcoder-serve", "torch", "triton", "transformers", "accelerate", "tokenizers", "numpy")
_SMALL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def checkpoint(directory: Path) -> dict[str, Any]:
    """The files that the model is made of, by SHA-256, and one hash over all of them; the hub's revision, if known."""
    files = {path.name: path for path in Checkpoint(directory).files.values()}
    files |= {name: directory / name for name in _SMALL_FILES if (directory / name).is_file()}
    hashes = {name: _sha256(path) for name, path in sorted(files.items())}
    whole = hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in hashes.items()).encode()).hexdigest()
    revision = revision_of(directory)
    return {"sha256": whole, "files": hashes, **({"revision": revision} if revision else {})}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Of Python and of what computes here."""
    return versions_of(_PACKAGES)


def processor() -> str:
    """The CPU's model, and how many cores may be used."""
    return f"{cpu_facts().get('model name') or platform.machine()}, {available_cores()} cores"
