"""Ids of ledger entries."""

from __future__ import annotations

import secrets
import time
import uuid


def uuid7(now: float | None = None) -> str:
    """A UUID of version 7 (RFC 9562, 5.7): milliseconds of Unix time, then 74 random bits. now: Unix seconds."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    number = milliseconds << 80 | secrets.randbits(80)
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=number))
