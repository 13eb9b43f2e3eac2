"""`x-ratelimit-*`: what is left, as OpenAI's API says it."""

from __future__ import annotations

import math

from deployments.teams.counting import Grant


def headers_of(grant: Grant) -> dict[str, str]:
    """Header fields of an answer; none for what has no limit."""
    fields = {}
    for of, allowance in (("requests", grant.requests), ("tokens", grant.tokens)):
        if allowance is not None:
            fields[f"x-ratelimit-limit-{of}"] = str(allowance.limit)
            fields[f"x-ratelimit-remaining-{of}"] = str(allowance.remaining)
            fields[f"x-ratelimit-reset-{of}"] = duration(allowance.reset_s)
    return fields


def duration(seconds: float) -> str:
    """`120ms`, `1s`, `6m0s`, `1h0m0s`: never less than it is."""
    milliseconds = math.ceil(seconds * 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, seconds_left = divmod(-(-milliseconds // 1000), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes_left}m{seconds_left}s"
    return f"{minutes}m{seconds_left}s" if minutes else f"{seconds_left}s"
