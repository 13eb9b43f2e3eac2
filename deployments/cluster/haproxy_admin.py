"""What HAProxy on this machine is asked while it runs, and what it still has to write.

The commands: https://docs.haproxy.org/2.8/management.html#9.3. The process that takes connections now answers them;
those that it has replaced live until their last connection ends, and answer nobody.
"""

from __future__ import annotations

import contextlib
import csv
import os
import socket
from collections.abc import Iterable
from pathlib import Path

_ANSWER_S = 10.0
_MOST_BYTES = 1 << 20
_CONNECTED = {"01", "04", "05", "08", "09", "0B"}
"""States in which a TCP socket may have bytes to send: all but those before a connection, and after its last byte.

Source: include/net/tcp_states.h of Linux."""


def ask(admin: Path, command: str) -> str:
    """What it answers on its admin socket. Raises OSError where nobody does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_S)
        connection.connect(str(admin))
        connection.sendall(f"{command}\n".encode())
        answer = b""
        while len(answer) < _MOST_BYTES and (piece := connection.recv(65_536)):
            answer += piece
    return answer.decode("latin-1")


def requests(admin: Path) -> int:
    """That are with an ingress, or wait for one. Raises OSError where nobody answers."""
    rows = csv.DictReader(ask(admin, "show stat").removeprefix("# ").splitlines())
    counted = [row for row in rows if row.get("svname") == "BACKEND"]
    return sum(int(row[column] or 0) for row in counted for column in ("scur", "qcur"))


def unsent_bytes(pids: Iterable[int]) -> int:
    """Of TCP connections of these processes, what the other ends have not taken. 0 where there is no /proc."""
    return sum(_unsent_bytes(pid) for pid in pids)


def _unsent_bytes(pid: int) -> int:
    process = Path(f"/proc/{pid}")
    found = 0
    with contextlib.suppress(OSError):  # it has ended, and the kernel sends the rest
        inodes = {_inode(file) for file in (process / "fd").iterdir()}
        for name in ("tcp", "tcp6"):
            for line in (process / "net" / name).read_text().splitlines()[1:]:
                state, queues, inode = (line.split()[place] for place in (3, 4, 9))
                if state in _CONNECTED and inode in inodes:
                    found += int(queues.partition(":")[0], 16)
    return found


def _inode(file: Path) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(file).removeprefix("socket:[").removesuffix("]")
    return ""
