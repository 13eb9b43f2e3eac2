"""How long an event loop is held at a time: the processor's time of its thread within one callback."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from tests.support.linear import seconds


@dataclass
class Held:
    """longest_s: the longest that one callback has taken, in seconds. Waiting for the processor does not count."""

    longest_s: float = 0.0


@contextmanager
def holding() -> Iterator[Held]:
    """Watches all event loops, from what begins in the block on. Garbage of other tests is not looked for meanwhile."""
    held, run = Held(), asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        held.longest_s = max(held.longest_s, time.thread_time() - began)

    gc.disable()
    try:
        with mock.patch.object(asyncio.Handle, "_run", timed):
            yield held
    finally:
        gc.enable()


async def least_hold(work: Callable[[], Coroutine[Any, Any, object]], enough_s: float, tries: int = 4) -> float:
    """The longest hold of the try that held the loop least; the first that is short enough ends it.

    Other work on the machine makes times longer, never shorter: what seems too long is divided by how slow it is now.
    """
    least = float("inf")
    for _ in range(tries):
        with holding() as held:
            await asyncio.create_task(work())
        least = min(least, held.longest_s)
        if least > enough_s:
            least = min(least, held.longest_s / slowness())
        if least <= enough_s:
            break
    return least


_KNOWN_S = 0.005
"""What `_known_work` takes on a core of an AMD EPYC (family 25) that does nothing else."""


def slowness() -> float:
    """So many times as long as there, and at least as long, the same takes here and now."""
    return max(1.0, seconds(_known_work) / _KNOWN_S)


def _known_work() -> None:
    texts = [str(number).encode() for number in range(20_000)]
    json.loads(json.dumps([text.decode() for text in texts]))
