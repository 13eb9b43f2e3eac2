"""Waiting for what another task, thread or process does: until it is done, however slow the machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE_S = 120.0
"""Long enough for a machine that does ten other things; what never comes takes this long to fail."""


def wait_until(
    condition: Callable[[], object],
    message: str | Callable[[], str] = "the condition does not come true",
    timeout_s: float = PATIENCE_S,
    period_s: float = 0.02,
) -> float:
    """Seconds until `condition` held. Raises AssertionError with the message after `timeout_s`."""
    started_at = time.monotonic()
    while not condition():
        waited = time.monotonic() - started_at
        assert waited < timeout_s, message if isinstance(message, str) else message()
        time.sleep(period_s)
    return time.monotonic() - started_at


async def eventually(
    condition: Callable[[], object],
    message: str | Callable[[], str] = "the condition does not come true",
    timeout_s: float = PATIENCE_S,
    period_s: float = 0.001,
) -> None:
    """The same for what happens in this event loop: its time counts, and its other tasks run meanwhile."""
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    while not condition():
        assert loop.time() - started_at < timeout_s, message if isinstance(message, str) else message()
        await asyncio.sleep(period_s)


async def settle(rounds: int = 50) -> None:
    """Let every task run that can run now, and those that these wake, and so on; what must be waited for is not."""
    for _ in range(rounds):
        await asyncio.sleep(0)
