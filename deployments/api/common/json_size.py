"""How many values a JSON body has, told before they are made: each costs a hundred times the bytes that say it."""

from __future__ import annotations

MAX_CONTAINERS = 10_000
"""Objects and lists of one body: a conversation of the most turns has half of it."""

MAX_VALUES = 1 << 18
"""Strings and what stands behind commas, in one body: 32 prompts of token ids that fill a window of 8,192."""

_BACKSLASH = ord("\\")


def has_too_many_values(body: bytes) -> bool:
    """In time linear in the body, whatever it holds, JSON or not."""
    commas, quotes = body.count(b","), body.count(b'"')
    if body.count(b"[") + body.count(b"{") <= MAX_CONTAINERS and commas + quotes // 2 <= MAX_VALUES:
        return False  # even if all of them count
    return _too_many_outside_strings(body)


def _too_many_outside_strings(body: bytes) -> bool:
    containers = values = at = 0
    while containers <= MAX_CONTAINERS and values <= MAX_VALUES:
        quote = body.find(b'"', at)
        end = len(body) if quote < 0 else quote
        containers += body.count(b"[", at, end) + body.count(b"{", at, end)
        values += body.count(b",", at, end) + 1
        if quote < 0:
            return containers > MAX_CONTAINERS or values > MAX_VALUES
        at = _string_end(body, quote + 1)
    return True


def _string_end(body: bytes, at: int) -> int:
    """Behind the quote that ends the string whose first character is at `at`; where none does, behind everything."""
    while (quote := body.find(b'"', at)) >= 0:
        first = quote
        while first > at and body[first - 1] == _BACKSLASH:
            first -= 1
        at = quote + 1
        if (quote - first) % 2 == 0:
            return at
    return len(body)
