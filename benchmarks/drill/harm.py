"""What is done to a server in a drill."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

from benchmarks.drill.clients import Load
from benchmarks.drill.failure import Harm, Stand
from benchmarks.drill.switch import Part, switch_in

ENGINE, INGRESS = "ServeReplica:starcoder:engine", "ServeReplica:starcoder:ingress"
EXPORTER = "monitoring.exporter"
SUCCESSOR_S = 0.5
PORT_S = 10.0


def clients(load: Load) -> Harm:
    """More of them than it bears, or such as it does not like."""
    return lambda stand: stand.clients(load)


def killed(kind: str) -> Harm:
    """One process, as the kernel does when memory is short."""

    @contextlib.contextmanager
    def harm(stand: Stand) -> Iterator[None]:
        _signal(_some(stand, kind)[:1], signal.SIGKILL)
        yield

    return harm


def hung(kind: str) -> Harm:
    """All such processes stop with their connections open, and so do those that are started in their place."""

    @contextlib.contextmanager
    def harm(stand: Stand) -> Iterator[None]:
        stopped = set(_some(stand, kind))
        _signal(stopped, signal.SIGSTOP)
        try:
            with _again_and_again(lambda: _stop_more(stand, kind, stopped)):
                yield
        finally:
            _signal(stopped, signal.SIGCONT)

    return harm


def _stop_more(stand: Stand, kind: str, stopped: set[int]) -> None:
    more = set(stand.pids(kind)) - stopped
    stopped |= more
    _signal(more, signal.SIGSTOP)


@contextlib.contextmanager
def lost_for_good(stand: Stand) -> Iterator[None]:
    """One engine is killed, and its checkpoint has gone, as with a volume that was unmounted: none takes its place."""
    where, elsewhere = stand.checkpoint, stand.home / "gone"
    where.rename(elsewhere)
    try:
        with killed(ENGINE)(stand):
            yield
    finally:
        elsewhere.rename(where)


@contextlib.contextmanager
def without_exporter(stand: Stand) -> Iterator[None]:
    """It is killed, and another program has its port, which answers nobody."""
    with contextlib.closing(socket.socket()) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _signal(_some(stand, EXPORTER), signal.SIGKILL)
        _bind(taken, stand.metrics_port)
        yield


def _bind(taken: socket.socket, port: int) -> None:
    """Raises OSError where it stays in use."""
    deadline = time.monotonic() + PORT_S
    while True:
        try:
            taken.bind(("127.0.0.1", port))
            return taken.listen()
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)


@contextlib.contextmanager
def broken(stand: Stand, part: Part) -> Iterator[None]:
    """A part of a server that was started so that it can be."""
    switch = switch_in(stand.home, part)
    switch.touch()
    try:
        yield
    finally:
        switch.unlink(missing_ok=True)


def stray_router(stand: Stand) -> AbstractContextManager[None]:
    """The routers of this server send requests to engines that do not hold their prefix."""
    return broken(stand, "router")


def stubborn_drafts(load: Load) -> Harm:
    """The engines of this server learn nothing from drafts that are wrong, and those of these clients are."""

    @contextlib.contextmanager
    def harm(stand: Stand) -> Iterator[None]:
        with broken(stand, "drafts"), stand.clients(load):
            yield

    return harm


@contextlib.contextmanager
def rollout(stand: Stand) -> Iterator[None]:
    """The same application with another setting: every engine and every ingress is replaced."""
    os.kill(stand.pid, signal.SIGUSR1)
    yield


def _some(stand: Stand, kind: str) -> list[int]:
    """Raises RuntimeError where there is none."""
    if not (found := stand.pids(kind)):
        raise RuntimeError(f"the server has no process {kind}")
    return found


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def _again_and_again(work: Callable[[], None]) -> Iterator[None]:
    """In a thread, until it is left."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(SUCCESSOR_S):
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
