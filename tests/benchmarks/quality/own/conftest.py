"""A real engine behind the whole server."""

from __future__ import annotations

from tests.support.embedded_app import pico  # noqa: F401
