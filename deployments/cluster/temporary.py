"""Private directories under the system's temporary one, named after the process that owns them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "starcoder-"


def private_directory(parent: Path | None = None) -> Path:
    """A new directory that only this user can enter. Short, since the path of a Unix socket ends at 108 bytes."""
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent or short_parent()))


def remove_stale(parent: Path | None = None) -> None:
    """Remove this user's directories whose process was killed before it could do so itself."""
    for path in (parent or short_parent()).glob(f"{PREFIX}*-*"):
        owner = path.name.removeprefix(PREFIX).split("-")[0]
        with contextlib.suppress(OSError):
            if owner.isdigit() and path.stat().st_uid == os.getuid() and not _alive(int(owner)):
                shutil.rmtree(path, ignore_errors=True)


def remove(directory: Path, patience_s: float = 3.0) -> None:
    """Remove a directory; who still writes there, while it ends, may bring it back for a moment."""
    deadline = time.monotonic() + patience_s
    while directory.exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.01)


def short_parent() -> Path:
    """`/tmp`, where there is one: `TMPDIR` can be long."""
    tmp = Path("/tmp")
    return tmp if os.access(tmp, os.W_OK) else Path(tempfile.gettempdir())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError):  # one that has ended, but nobody has asked how, is dead (Linux)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return True
