"""What a span is, and the span that records nothing.

A trace crosses processes as a W3C carrier: `{"traceparent": ..., "tracestate": ...}`, a field of whatever is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

SpanKind = Literal["internal", "server", "client"]
Value = str | int | float | bool | list[str]
Carrier = Mapping[str, str]

NO_CARRIER: dict[str, str] = {}


class Span(Protocol):
    """carrier: what a child in another process needs. trace_id: 32 hex digits, empty where nothing is recorded."""

    @property
    def carrier(self) -> dict[str, str]: ...
    @property
    def trace_id(self) -> str: ...
    def set(self, attributes: Mapping[str, Value]) -> None: ...
    def rename(self, name: str) -> None: ...
    def fail(self, error_type: str, message: str = "") -> None:
        """Mark it as failed; `error_type` is a short word from a small set."""
        ...

    def end(self, at_ns: int | None = None) -> None:
        """at_ns: Unix time; now if None. Only the first call counts."""
        ...


class NoSpan:
    carrier = NO_CARRIER
    trace_id = ""

    def set(self, attributes: Mapping[str, Value]) -> None: ...
    def rename(self, name: str) -> None: ...
    def fail(self, error_type: str, message: str = "") -> None: ...
    def end(self, at_ns: int | None = None) -> None: ...


NO_SPAN = NoSpan()
