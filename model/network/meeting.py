"""Ranks of one machine find each other: sockets between the first of some and the others of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Client, Connection, Listener

import torch.distributed as dist


def meet(store: dist.Store, key: str, rank: int, ranks: Sequence[int]) -> list[Connection]:
    """Each of `ranks`, of which `rank` is one, calls it at once.

    key: under which the first leaves in the store where it is met; no other meeting's. Returns, for the first, the
    connections to the others in the order of `ranks`; for the others the one to the first.
    """
    first, others = ranks[0], ranks[1:]
    if rank != first:
        connection = Client(store.get(key).decode(), family="AF_UNIX")
        connection.send_bytes(str(rank).encode())
        return [connection]
    with short_directory() as directory:
        path = f"{directory}/meeting"
        with Listener(path, family="AF_UNIX", backlog=len(ranks)) as listener:
            store.set(key, path)
            connections = [listener.accept() for _ in others]
    by_rank = {int(connection.recv_bytes()): connection for connection in connections}  # they come in any order
    return [by_rank[other] for other in others]


def short_directory() -> tempfile.TemporaryDirectory[str]:
    """A private directory for a socket, whose path ends at 108 bytes, or at 104: `TMPDIR` can be longer."""
    directory = tempfile.TemporaryDirectory(prefix="starcoder-")
    if len(os.fsencode(directory.name)) < 90:
        return directory
    directory.cleanup()
    return tempfile.TemporaryDirectory(prefix="starcoder-", dir="/tmp")
