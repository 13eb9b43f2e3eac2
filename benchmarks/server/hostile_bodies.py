"""Bodies that nobody sends who means well, each within the limits of a body, and what they are to be answered with.

Most of them have held a process for seconds once.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass

MINIFIED = "function f(a){return a/2*(b/3)}"
CODE = (MINIFIED * 1000)[:28_000]

LARGEST = 4 << 20
"""Bytes of a body, as the server is set up by default."""

REFUSED = frozenset({400})
DONE = frozenset({200, 429})
"""What asks for much may be too much for what is left of the queue."""

MANY = DONE | REFUSED
"""What asks for many completions may be too much for an empty queue."""


@dataclass(frozen=True)
class HostileBody:
    """make: the bytes, megabytes most of the time. statuses: any of them is a right answer. coding: of the bytes."""

    path: str
    make: Callable[[], bytes]
    statuses: frozenset[int] = REFUSED
    coding: str | None = None


def some(count: int, value: str, around: str = '{"prompt": [%s]}') -> bytes:
    """A body with a list of `count` equal values in it."""
    return (around % ",".join([value] * count)).encode()


def _json(**fields: object) -> bytes:
    return json.dumps(fields).encode()


_COMPLETIONS, _CHAT, _INFILL = "/v1/completions", "/v1/chat/completions", "/infill"
_STOPS = [chr(65 + i) + "ab" * 511 for i in range(16)]
_CUT = {"truncate_prompt_tokens": -1, "max_tokens": 32}


def _cursor_behind_line_feeds(mode: str) -> bytes:
    return _json(prompt="\n" * 8190 + "x", suffix="\n", completion_mode=mode, **_CUT)


def _functions_on_a_line() -> bytes:
    code = "".join(f"function f{i}(a){{return a/{i + 1}/(a/2)}}" for i in range(1200))
    return _json(input_prefix=code, input_suffix=code, filename="f.min.js", n_predict=32)


MANY_VALUES = {
    "token ids": HostileBody(_COMPLETIONS, lambda: some(1_300_000, "1")),
    "as many as may be": HostileBody(_COMPLETIONS, lambda: some(250_000, "1")),
    "lists of ids": HostileBody(_COMPLETIONS, lambda: some(600_000, "[1]")),
    "as many lists as may be": HostileBody(_COMPLETIONS, lambda: some(9_000, "[1]")),
    "short prompts": HostileBody(_COMPLETIONS, lambda: some(600_000, '"x"')),
    "empty lists": HostileBody(_COMPLETIONS, lambda: some(1_000_000, "[]", '{"prompt": "x", "a": [%s]}')),
    "empty objects": HostileBody(_COMPLETIONS, lambda: some(9_990, "{}", '{"prompt": "x", "a": [%s]}'), DONE),
    "stop strings": HostileBody(_COMPLETIONS, lambda: some(600_000, '"x"', '{"prompt": "x", "stop": [%s]}')),
    "biases": HostileBody(
        _COMPLETIONS, lambda: _json(prompt="x", logit_bias=dict.fromkeys(map(str, range(250_000)), 1))
    ),
    "pairs of biases": HostileBody(_INFILL, lambda: some(300_000, "[1,1]", '{"logit_bias": [%s]}')),
    "turns": HostileBody(_CHAT, lambda: some(4_096, '{"role": "user", "content": "x"}', '{"messages": [%s]}')),
    "parts": HostileBody(
        _CHAT,
        lambda: some(120_000, '{"type": "text", "text": "x"}', '{"messages": [{"role": "user", "content": [%s]}]}'),
    ),
    "wrong turns": HostileBody(_CHAT, lambda: some(9_000, '{"role": 1}', '{"messages": [%s]}')),
    "fields of the answer": HostileBody(
        _INFILL, lambda: some(600_000, '"a"', '{"n_cmpl": 16, "response_fields": [%s]}')
    ),
}
LONG_TEXTS = {
    "long stop strings": HostileBody(_COMPLETIONS, lambda: _json(prompt="x", n=64, stop=_STOPS), MANY),
    "long stop strings of a stream": HostileBody(
        _COMPLETIONS, lambda: _json(prompt="x", n=2, stop=_STOPS, stream=True, max_tokens=256), DONE
    ),
    "an address": HostileBody(
        _COMPLETIONS,
        lambda: _json(segments={"prefix": "a", "git_url": "a" * 2000 + "/" + "a" * 2000 + ":"}),
        DONE,
    ),
    "a long name of a model": HostileBody(
        _COMPLETIONS, lambda: _json(prompt="x", model="m" * 4_000_000), frozenset({404})
    ),
    "an instruction": HostileBody("/v1/refactor", lambda: _json(code="x = 1\n", instruction="rename x " * 420_000)),
    "a body at the limit": HostileBody(_COMPLETIONS, lambda: _json(prompt="a" * (LARGEST - 14))),
    "a body beyond the limit": HostileBody(_COMPLETIONS, lambda: _json(prompt="a" * LARGEST), frozenset({413})),
    "a long suffix of many prompts": HostileBody(
        _COMPLETIONS, lambda: _json(prompt=[str(i) for i in range(128)], suffix=CODE * 8, **_CUT), MANY
    ),
    "many prompts to be cut": HostileBody(
        _COMPLETIONS, lambda: _json(prompt=[f"{i} {CODE}" for i in range(128)], **_CUT), MANY
    ),
}
CURSORS = {
    "a blob before a cursor": HostileBody(
        _COMPLETIONS,
        lambda: _json(prompt="x = 1\nblob = '" + "A" * 1_000_000 + "'\nprint(", suffix=")\n", **_CUT),
        DONE,
    ),
    "line feeds before a line": HostileBody(_COMPLETIONS, lambda: _cursor_behind_line_feeds("line"), DONE),
    "line feeds before a block": HostileBody(_COMPLETIONS, lambda: _cursor_behind_line_feeds("block"), DONE),
    "functions on a line": HostileBody(_INFILL, _functions_on_a_line, DONE),
    "both sides of a cursor in a session": HostileBody(
        _INFILL,
        lambda: _json(input_prefix=CODE * 60, input_suffix=CODE * 60, session_id="s", filename="f", n_predict=32),
        DONE,
    ),
    "other files": HostileBody(
        _INFILL, lambda: _json(input_prefix="x", input_extra=[{"text": CODE[:3400]}] * 1024, n_predict=32), DONE
    ),
}
"""What is around them is read by the rules that say where a completion ends."""

NO_JSON = {
    "open lists": HostileBody(_COMPLETIONS, lambda: b"[" * 4_000_000),
    "deep lists": HostileBody(_COMPLETIONS, lambda: b'{"prompt": ' + b"[" * 9_000 + b"]" * 9_000 + b"}"),
    "half surrogates": HostileBody(_COMPLETIONS, lambda: b'{"prompt": "' + rb"\udc00" * 600_000 + b'"}'),
    "no UTF-8": HostileBody(_COMPLETIONS, lambda: b'{"prompt": "' + b"a" * 4_000_000 + b'\xff"}'),
}
COMPRESSED = {
    "a compressed text": HostileBody(
        _COMPLETIONS, lambda: gzip.compress(_json(prompt="x = 1\n" * 500_000), mtime=0), coding="gzip"
    ),
    "a bomb": HostileBody(
        _COMPLETIONS, lambda: gzip.compress(b" " * 60_000_000, mtime=0), frozenset({413}), coding="gzip"
    ),
    "many members": HostileBody(_COMPLETIONS, lambda: gzip.compress(b"", mtime=0) * 200_000, coding="gzip"),
    "no gzip": HostileBody(_COMPLETIONS, lambda: _json(prompt="x = 1\n" * 500_000), coding="gzip"),
}

HOSTILE_BODIES = {**MANY_VALUES, **LONG_TEXTS, **CURSORS, **NO_JSON, **COMPRESSED}
"""By name."""
