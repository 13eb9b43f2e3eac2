"""Spans of this process, sent to an OpenTelemetry collector. Off, it imports nothing and does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

from monitoring.spans import NO_SPAN, Carrier, Span, SpanKind, Value


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


OFF: Tracing = NoTracing()

_tracing: Tracing = OFF


def endpoint_of(environment: Mapping[str, str]) -> str | None:
    """From OpenTelemetry's own variables; empty ones count as unset, as their specification says."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return next((environment[name] for name in names if environment.get(name)), None)


def check_otlp(endpoint: str, environment: Mapping[str, str]) -> None:
    """Raise ValueError where spans could not be sent there."""
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"otlp_endpoint={endpoint!r} is no URL, such as http://127.0.0.1:4318")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if environment.get(name, "") not in ("", "http/protobuf"):
            raise ValueError(f"{name}={environment[name]}: traces are sent with http/protobuf only (port 4318)")


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
