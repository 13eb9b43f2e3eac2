"""An OpenTelemetry collector in a thread: takes OTLP over HTTP and decodes it with the official protobuf classes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Kinds
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from deployments.command.ports import free_port
from tests.support.waiting import wait_until


@dataclass(frozen=True)
class CollectedSpan:
    """ids: hexadecimal; parent: empty for a root. start, end: Unix nanoseconds. failed: its status is an error,
    with this message."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    failed: bool
    message: str
    attributes: dict[str, Any]
    resource: dict[str, Any]


class Collector:
    """A context manager. url: its base address. paths: where requests were sent."""

    def __init__(self, port: int = 0) -> None:
        self.paths: list[str] = []
        self._spans: list[CollectedSpan] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.headers["content-type"] == "application/x-protobuf"
                collector.receive(self.path, body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def receive(self, path: str, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        self.paths.append(path)
        for group in request.resource_spans:
            resource = {entry.key: value_of(entry.value) for entry in group.resource.attributes}
            for scope in group.scope_spans:
                self._spans += [collected(span, resource) for span in scope.spans]

    def spans(self, trace: str | None = None) -> list[CollectedSpan]:
        return [span for span in self._spans if trace in (None, span.trace)]

    def trace(self, trace: str, *names: str) -> dict[str, CollectedSpan]:
        """The spans of a trace by name, once all of `names` have come."""
        wait_until(
            lambda: set(names) <= {span.name for span in self.spans(trace)},
            lambda: f"{names} were expected, but there is {self.spans(trace)}",
        )
        return {span.name: span for span in self.spans(trace)}


@contextmanager
def nobody_collects() -> Iterator[str]:
    """The address of a collector that is away. At the end it is there: what still tries to reach it would go on."""
    port = free_port()
    yield f"http://127.0.0.1:{port}"
    with Collector(port):
        wait_until(lambda: not any(thread.name.startswith("OtelBatch") for thread in threading.enumerate()))


def collected(span: Any, resource: dict[str, Any]) -> CollectedSpan:
    return CollectedSpan(
        name=span.name,
        kind=Kinds.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        message=span.status.message,
        attributes={entry.key: value_of(entry.value) for entry in span.attributes},
        resource=resource,
    )


def value_of(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
