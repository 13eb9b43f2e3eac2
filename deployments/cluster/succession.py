"""Which engine takes the place of which: Serve starts a new replica without saying why.

Living engines are listed in Ray's key-value store. A new one that finds a listed engine dead has replaced it; one that
finds none is the first, or was started for the load. An engine that stops in order takes itself off the list, and one
that dies by its own hand notes that its failure is counted. What dies otherwise was killed: its successor counts it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_list, _internal_kv_put

_PREFIX = b"starcoder/engines/"
_SERVE_NAMESPACE = "serve"


_COUNTED = b"counted"


class Predecessor(NamedTuple):
    """A dead engine. counted: it has counted its failure itself."""

    name: str
    counted: bool


def enlist(actor_name: str, is_alive: Callable[[str], bool] | None = None) -> Predecessor | None:
    """List this engine; the dead one that it replaces, if there is one. Blocks for milliseconds."""
    alive = is_alive or _is_alive
    replaced = None
    for key in _internal_kv_list(_PREFIX):
        name = key.removeprefix(_PREFIX).decode()
        if name == actor_name or alive(name):
            continue
        counted = _internal_kv_get(key) == _COUNTED
        # Deleting says whether it was still there: of two new engines only one replaces it.
        if _internal_kv_del(key):
            replaced = Predecessor(name, counted)
            break
    _internal_kv_put(_PREFIX + actor_name.encode(), b"", overwrite=True)
    return replaced


def counted(actor_name: str) -> None:
    """This engine has counted its failure and is about to end. Blocks for milliseconds, longer without Ray's store."""
    _internal_kv_put(_PREFIX + actor_name.encode(), _COUNTED, overwrite=True)


def strike_off(actor_name: str) -> None:
    _internal_kv_del(_PREFIX + actor_name.encode())


def _is_alive(actor_name: str) -> bool:
    try:
        ray.get_actor(actor_name, namespace=_SERVE_NAMESPACE)
    except ValueError:
        return False
    return True
