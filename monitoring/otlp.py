"""`monitoring.tracing` with OpenTelemetry's SDK. Imported only where a collector is configured.

The provider is this process's own and never the global one, which Ray may set. Spans are handed to a thread that
sends them in batches; when the collector is away or slow, its queue fills and further spans are dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanKind,
    Status,
    StatusCode,
    set_span_in_context,
)
from opentelemetry.trace import Span as ApiSpan
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from monitoring.spans import Carrier, Span, Value
from monitoring.spans import SpanKind as Kind
from monitoring.version import package_version

SERVICE = "starcoder"
TRACES_PATH = "/v1/traces"
SEND_EVERY_MS = 1000
SEND_TIMEOUT_S = 5

_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
_propagator = TraceContextTextMapPropagator()
_NOTHING = NonRecordingSpan(INVALID_SPAN_CONTEXT)
_ROOT = set_span_in_context(_NOTHING)


class OpenTelemetry:
    """endpoint: the collector's base URL, or the URL of its traces, which ends in /v1/traces.

    sample_ratio: share of the traces that begin here which are recorded; a caller's own decision is kept.
    Headers, certificates and compression are the exporter's own `OTEL_EXPORTER_OTLP_*` variables.
    """

    enabled = True

    def __init__(self, endpoint: str, sample_ratio: float, resource: Mapping[str, str]) -> None:
        url = endpoint if endpoint.endswith(TRACES_PATH) else endpoint.rstrip("/") + TRACES_PATH
        attributes = {"service.name": SERVICE, "service.version": package_version()}
        attributes |= {f"service.{name}": value for name, value in resource.items()}
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(sample_ratio),
            resource=Resource.create(attributes),
            shutdown_on_exit=False,  # would wait for a collector that is away
        )
        exporter = OTLPSpanExporter(endpoint=url, timeout=SEND_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=SEND_EVERY_MS))
        self._tracer = self._provider.get_tracer(SERVICE, attributes["service.version"])

    def start(
        self,
        name: str,
        parent: Carrier,
        *,
        kind: Kind = "internal",
        attributes: Mapping[str, Value] | None = None,
        start_ns: int | None = None,
    ) -> Span:
        # An empty context would mean the thread's current span, which is none of ours.
        context = _propagator.extract(parent, set_span_in_context(_NOTHING)) if parent else _ROOT
        span = self._tracer.start_span(
            name, context=context, kind=_KINDS[kind], attributes=attributes, start_time=start_ns
        )
        return _Span(span)

    def shutdown(self, timeout_s: float) -> None:
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(timeout_s)


class _Span:
    def __init__(self, span: ApiSpan) -> None:
        self._span = span
        self._open = True

    @property
    def carrier(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, set_span_in_context(self._span))
        return carrier

    @property
    def trace_id(self) -> str:
        context = self._span.get_span_context()
        return f"{context.trace_id:032x}" if context.trace_flags.sampled else ""

    def set(self, attributes: Mapping[str, Value]) -> None:
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, error_type: str, message: str = "") -> None:
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(Status(StatusCode.ERROR, message or None))

    def end(self, at_ns: int | None = None) -> None:
        if self._open:
            self._open = False
            self._span.end(at_ns)
