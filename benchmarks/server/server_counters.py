"""The server's own counters, where its `/metrics` can be read: they know what clients that hung up never saw."""

from __future__ import annotations

from collections.abc import Collection

import httpx
from prometheus_client.parser import text_string_to_metric_families

_NAMES = ("generation_tokens_total", "prefix_cache_queries_total", "prefix_cache_hits_total")
_PREFIXES = ("starcoder_", "vllm:")


async def read_counters(client: httpx.AsyncClient, names: Collection[str] = _NAMES) -> dict[str, float] | None:
    """Sums over all labels, under their names without `starcoder_` or `vllm:`; None where the server has none."""
    try:
        response = await client.get("/metrics")
    except httpx.HTTPError:
        return None
    if response.status_code != 200:
        return None
    found: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(response.text):
            for sample in family.samples:
                for prefix in _PREFIXES:
                    name = sample.name.removeprefix(prefix)
                    if sample.name.startswith(prefix) and name in names:
                        found[name] = found.get(name, 0.0) + sample.value
    except ValueError:
        return None
    return found or None


def growth(before: dict[str, float] | None, after: dict[str, float] | None) -> dict[str, float]:
    """What was added between two readings; empty where one is missing."""
    if before is None or after is None:
        return {}
    return {name: value - before.get(name, 0.0) for name, value in after.items()}
