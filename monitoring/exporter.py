"""The node's exporter: one small HTTP server that merges the metrics of all of the node's processes."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import prometheus_client
from prometheus_client import CollectorRegistry

from monitoring.front import reachable
from monitoring.node_page import NodePage
from monitoring.probe import Probe
from monitoring.ready_page import ReadyPage
from monitoring.relay import with_others
from monitoring.shared_directory import SharedDirectory
from monitoring.targets import Announcement

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 9464
"""OpenTelemetry's default for Prometheus exporters."""

CHECK_S = 2.0
JOB = "starcoder"


class NodeExporter:
    """Serves /metrics in a thread of its own until `close`. Usable as a context manager.

    port: 0 binds a free one; `self.port` says which. targets: directory in which its address is announced, in a file
    for Prometheus' file_sd that goes with it. others: what else to announce there, job -> address, and to pass on at
    `/JOB`, for who cannot reach it.
    Raises OSError where the address cannot be bound or the directory cannot be made.
    """

    def __init__(
        self,
        directory: Path,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        targets: Path | None = None,
        others: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        page, asked = NodePage(directory), CollectorRegistry()
        with contextlib.ExitStack() as undone:
            self._probe = Probe(directory)
            undone.callback(self._probe.close)
            asked.register(self._probe)
            self._page = ReadyPage(lambda: page.text() + prometheus_client.generate_latest(asked))
            undone.callback(self._page.close)
            self._server, self._thread = prometheus_client.start_http_server(port, host, CollectorRegistry())
            undone.pop_all()
        self._server.set_app(with_others(self._page, others))
        self.host, self.port = host, self._server.server_port
        addresses = {JOB: self.address, **others}
        self._announcement = None if targets is None else Announcement(targets, directory.name, addresses)

    @property
    def address(self) -> str:
        host = reachable(self.host)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}/metrics"

    def close(self) -> None:
        if self._announcement is not None:
            self._announcement.close()
        self._probe.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._page.close()

    def __enter__(self) -> NodeExporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_for_end(
    stop: threading.Event, shared: SharedDirectory, linger_s: float | None, node_ended: Callable[[], bool]
) -> None:
    """Return on `stop`, when the directory is gone, or when nobody has recorded there for `linger_s` seconds.

    Nor does it outlive the node, whose port and targets the next one wants.
    """
    alone_since: float | None = None
    while not stop.wait(None if linger_s is None else CHECK_S):
        if not shared.path.exists() or node_ended():
            return
        with contextlib.suppress(OSError):
            if shared.alive():
                alone_since = None
                continue
        alone_since = alone_since or time.monotonic()
        if linger_s is not None and time.monotonic() - alone_since > linger_s:
            return


def end_of(pid: int | None) -> Callable[[], bool]:
    """Whether this process has ended, even where another one has its id by then. None, and not on Linux: never."""
    if pid is None or not hasattr(os, "pidfd_open"):
        return lambda: False
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return lambda: True
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return lambda: bool(poll.poll(0))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m monitoring.exporter", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="directory that the node's processes share")
    parser.add_argument("--host", default=DEFAULT_HOST, help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port to listen on (default: %(default)s)")
    parser.add_argument("--targets", type=Path, help="directory in which to announce the address, for file_sd")
    parser.add_argument("--also", action="append", default=[], metavar="JOB=ADDRESS", help="announce and pass on this")
    parser.add_argument("--linger-s", type=float, help="end when no process has recorded for so many seconds")
    parser.add_argument("--node-pid", type=int, help="process of the node: end with it, if there is a --linger-s")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m monitoring.exporter --directory DIR [--host HOST] [--port PORT]`; ends on SIGINT or SIGTERM."""
    options = parser().parse_args(arguments)
    node_ended = end_of(options.node_pid)
    if node_ended():
        return  # before it is announced
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        others = dict(other.split("=", 1) for other in options.also)
        exporter = NodeExporter(options.directory, options.host, options.port, options.targets, others)
    except OSError as error:
        parser().exit(1, f"cannot serve metrics on {options.host}:{options.port}: {error}\n")
    shared = SharedDirectory(options.directory)
    with exporter:
        print(f"metrics of this node: {exporter.url}", flush=True)
        wait_for_end(stop, shared, options.linger_s, node_ended)


if __name__ == "__main__":
    main()
