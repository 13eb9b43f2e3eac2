"""The server's own counters, where its `/metrics` can be read: they know what clients that hung up never saw."""

from __future__ import annotations

import math
from collections.abc import Collection

import httpx
from prometheus_client.parser import text_string_to_metric_families

_NAMES = ("generation_tokens_total", "prefix_cache_queries_total", "prefix_cache_hits_total")
_PREFIXES = ("starcoder_", "vllm:")

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A counter's name without `starcoder_` or `vllm:`, and its labels."""
Counters = dict[Series, float]


async def read_counters(client: httpx.AsyncClient, names: Collection[str] = _NAMES) -> Counters | None:
    """None where the server has none."""
    try:
        response = await client.get("/metrics")
    except httpx.HTTPError:
        return None
    if response.status_code != 200:
        return None
    found: Counters = {}
    try:
        for family in text_string_to_metric_families(response.text):
            for sample in family.samples:
                for prefix in _PREFIXES:
                    name = sample.name.removeprefix(prefix)
                    if sample.name.startswith(prefix) and name in names:
                        series = name, tuple(sorted(sample.labels.items()))
                        found[series] = found.get(series, 0.0) + sample.value
    except ValueError:
        return None
    return found or None


def growth(before: Counters | None, after: Counters | None) -> dict[str, float]:
    """What was added between two readings, over all labels, by name.

    Empty where one is missing, and where a series fell or is gone: an engine began anew, or another node answered.
    """
    if before is None or after is None or any(after.get(series, -math.inf) < was for series, was in before.items()):
        return {}
    found: dict[str, float] = {}
    for series, value in after.items():
        found[series[0]] = found.get(series[0], 0.0) + value - before.get(series, 0.0)
    return found
