"""The node's exporter: one small HTTP server that merges the metrics of all of the node's processes."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import prometheus_client

from monitoring.metrics import PREFIX
from monitoring.shared_directory import node_registry

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 9464
"""OpenTelemetry's default for Prometheus exporters."""


class NodeExporter:
    """Serves /metrics in a thread of its own until `close`. Usable as a context manager.

    port: 0 binds a free one; `self.port` says which.
    Raises OSError where the address cannot be bound or the directory cannot be made.
    """

    def __init__(self, directory: Path, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT) -> None:
        registry = node_registry(directory, PREFIX)
        self._server, self._thread = prometheus_client.start_http_server(port, host, registry)
        self.host, self.port = host, self._server.server_port

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> NodeExporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m monitoring.exporter --directory DIR [--host HOST] [--port PORT]`; ends on SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.exporter", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="directory that the node's processes share")
    parser.add_argument("--host", default=DEFAULT_HOST, help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port to listen on (default: %(default)s)")
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        exporter = NodeExporter(options.directory, options.host, options.port)
    except OSError as error:
        parser.exit(1, f"cannot serve metrics on {options.host}:{options.port}: {error}\n")
    with exporter:
        print(f"metrics of this node: {exporter.url}", flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
