"""Tests with the mark take their time from the event loop, which is not the real one."""

from __future__ import annotations

from tests.support.virtual_time import loop_factories as pytest_asyncio_loop_factories  # noqa: F401
