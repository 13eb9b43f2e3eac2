"""`landlock_launcher.py POLICY COMMAND ...`: run a command in sandlock, with this process's standard input and output.

A process of its own, which ends when its command does, or at SIGTERM, and kills what the command has left: sandlock
does not end processes whose parents are gone. They become this one's children.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NOBODY = 65534
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_ENDS_WITH_PARENT, _ADOPTS = 1, 36
"""PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER of prctl(2)."""


def main() -> None:
    policy, command = json.loads(sys.argv[1]), sys.argv[2:]
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    libc = ctypes.CDLL(None)
    libc.prctl(_ADOPTS, 1)
    libc.prctl(_ENDS_WITH_PARENT, signal.SIGTERM)
    threading.Thread(target=_run, args=(policy, command, ended), daemon=True).start()
    while not ended.wait(0.05):
        pass  # a wait without end would hold signals back
    while left := descendants():
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    os._exit(0)


def _run(policy: dict[str, Any], command: Sequence[str], ended: threading.Event) -> None:
    try:
        import sandlock
        from sandlock.sandbox import BranchAction, StdioMode

        warnings.simplefilter("ignore")  # of `gid`, which it passes on all the same
        somebody_else = {"uid": NOBODY, "gid": NOBODY} if os.getuid() == 0 else {}
        work, kept = (Path(policy["scratch"], name) for name in ("work", "kept"))
        work.mkdir()
        kept.mkdir()
        sandbox = sandlock.Sandbox(
            fs_readable=[*policy["readable"], *DEVICES],
            fs_writable=[str(work), "/dev/null"],
            workdir=str(work),
            cwd=str(work),
            fs_storage=str(kept),
            max_disk=policy["scratch_bytes"],
            on_exit=BranchAction.ABORT,
            max_processes=policy["processes"],
            clean_env=True,
            env={"HOME": str(work), "TMPDIR": str(work), "PATH": "/usr/local/bin:/usr/bin:/bin"},
            no_coredump=True,
            **somebody_else,
        )
        inherit = StdioMode.INHERIT
        with sandbox:
            sandbox.popen(command, stdin=inherit, stdout=inherit, stderr=inherit).wait()
    finally:
        ended.set()


def descendants() -> list[int]:
    """Whoever has this process among its ancestors, zombies aside."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(") ")[2].split()[:2]
                if state != "Z":
                    parents[int(entry.name)] = int(parent)
    found, generation = list[int](), {os.getpid()}
    while generation := {pid for pid, parent in parents.items() if parent in generation}:
        found += generation
    return found


if __name__ == "__main__":
    main()
