"""A process with more open files than `select` can name."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

FD_SETSIZE = 1024


@contextmanager
def many_descriptors() -> Iterator[None]:
    """A new one is at least `FD_SETSIZE` then. Raises ValueError where the machine does not allow so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * FD_SETSIZE
    with ExitStack() as stack:
        if 0 <= soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        last = -1
        while last < FD_SETSIZE:
            last = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, last)
        yield
