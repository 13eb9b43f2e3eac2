"""Files with secrets, for this user only."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from model.config import ConfigError


def read_or_make(path: Path, length: int, make: bool) -> bytes:
    """The secret in a file, without white space around it: at least `length` bytes.

    make: where there is none, one is made (hexadecimal); of several that do so at once, all read the same.
    Raises ConfigError where it is missing, too short, or belongs to others as well.
    """
    if make and not path.exists():
        _make(path, secrets.token_hex(length).encode())
    try:
        status = path.stat()
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"secret file {path}: {error.strerror}") from error
    if status.st_mode & 0o007:
        raise ConfigError(f"secret file {path} is open to every user of this machine: chmod 600 it")
    if len(secret) < length:
        raise ConfigError(f"secret file {path} holds {len(secret)} bytes; at least {length} are needed")
    return secret


def _make(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass  # somebody else was first
    finally:
        os.unlink(temporary)
