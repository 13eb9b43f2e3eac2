"""Spans of this process, sent to an OpenTelemetry collector. Off, it imports nothing and does nothing.

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


class Tracing(Protocol):
    enabled: bool

    def start(
        self,
        name: str,
        parent: Carrier,
        *,
        kind: SpanKind = "internal",
        attributes: Mapping[str, Value] | None = None,
        start_ns: int | None = None,
    ) -> Span:
        """A new span below `parent`, or of a new trace where that is empty or broken. start_ns: Unix time."""
        ...

    def shutdown(self, timeout_s: float) -> None:
        """Send what is left, as far as that works within the time."""
        ...


class NoSpan:
    carrier = NO_CARRIER
    trace_id = ""

    def set(self, attributes: Mapping[str, Value]) -> None: ...
    def rename(self, name: str) -> None: ...
    def fail(self, error_type: str, message: str = "") -> None: ...
    def end(self, at_ns: int | None = None) -> None: ...


class NoTracing:
    enabled = False

    def start(
        self,
        name: str,
        parent: Carrier,
        *,
        kind: SpanKind = "internal",
        attributes: Mapping[str, Value] | None = None,
        start_ns: int | None = None,
    ) -> Span:
        return NO_SPAN

    def shutdown(self, timeout_s: float) -> None: ...


NO_SPAN = NoSpan()
OFF: Tracing = NoTracing()

_tracing: Tracing = OFF


def init(endpoint: str | None, sample_ratio: float = 1.0, **resource: str) -> Tracing:
    """Send this process's spans to the collector at `endpoint` (OTLP over HTTP); None: nowhere.

    resource: what is said of this process, such as `instance="engine#abc"`. Never raises because of a collector:
    spans that cannot be delivered are dropped.
    """
    global _tracing
    if endpoint is None:
        _tracing = OFF
    else:
        from monitoring.otlp import OpenTelemetry

        _tracing = OpenTelemetry(endpoint, sample_ratio, resource)
    return _tracing


def current() -> Tracing:
    """What `init` made last: for code that somebody else constructs."""
    return _tracing
