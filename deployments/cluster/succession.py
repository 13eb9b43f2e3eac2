"""Which engine takes the place of which: Serve starts a new replica without saying why.

Living engines are listed in Ray's key-value store. A new one that finds a listed engine dead has replaced it; one that
finds none is the first, or was started for the load. An engine that stops in order takes itself off the list.
"""

from __future__ import annotations

from collections.abc import Callable

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_list, _internal_kv_put

_PREFIX = b"starcoder/engines/"
_SERVE_NAMESPACE = "serve"


def enlist(actor_name: str, is_alive: Callable[[str], bool] | None = None) -> str | None:
    """List this engine; the name of the dead one that it replaces, if there is one. Blocks for milliseconds."""
    alive = is_alive or _is_alive
    replaced = None
    for key in _internal_kv_list(_PREFIX):
        name = key.removeprefix(_PREFIX).decode()
        # Deleting says whether it was still there: of two new engines only one replaces it.
        if name != actor_name and not alive(name) and _internal_kv_del(key):
            replaced = name
            break
    _internal_kv_put(_PREFIX + actor_name.encode(), b"", overwrite=True)
    return replaced


def strike_off(actor_name: str) -> None:
    _internal_kv_del(_PREFIX + actor_name.encode())


def _is_alive(actor_name: str) -> bool:
    try:
        ray.get_actor(actor_name, namespace=_SERVE_NAMESPACE)
    except ValueError:
        return False
    return True
