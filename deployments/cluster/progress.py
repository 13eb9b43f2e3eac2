"""How far a replica has come with loading, told through Ray's key-value store to whoever started it."""

from __future__ import annotations

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

_KEY = b"starcoder/loading"


def report(share: float) -> None:
    """Called by a replica now and then while its weights load; share: 0 to 1."""
    _internal_kv_put(_KEY, str(round(share, 3)).encode(), overwrite=True)


def read() -> float | None:
    """The newest report of any replica, or None before the first."""
    value = _internal_kv_get(_KEY)
    return float(value) if value else None


def clear() -> None:
    _internal_kv_del(_KEY)
