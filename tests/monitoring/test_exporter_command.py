"""The exporter's command: what it makes of its options, when it ends, and what it leaves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest

from monitoring import exporter
from monitoring.exporter import JOB, NodeExporter
from tests.support.waiting import wait_until


class Command:
    """The command with all that it starts replaced. made, waited: what that was given; signals: what it obeys."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[object, ...]] = []
        self.waited: list[tuple[Any, ...]] = []
        self.signals: dict[int, Callable[..., object]] = {}
        self.open = False
        self.failure: OSError | None = None
        self.url = "http://127.0.0.1:7/metrics"
        monkeypatch.setattr(exporter, "NodeExporter", self._make)
        monkeypatch.setattr(exporter, "wait_for_end", self._wait)
        monkeypatch.setattr(exporter, "end_of", lambda pid: lambda: pid == 9)
        monkeypatch.setattr(exporter.signal, "signal", self.signals.__setitem__)

    def _make(self, *arguments: object) -> Command:
        self.made.append(arguments)
        if self.failure is not None:
            raise self.failure
        return self

    def _wait(self, *arguments: object) -> None:
        assert self.open
        self.waited.append(arguments)

    def __enter__(self) -> Command:
        self.open = True
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.open = False


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(monkeypatch)


def test_it_serves_until_it_is_told_to_end(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exporter.main(["--directory", str(tmp_path)])
    assert command.made == [(tmp_path, "127.0.0.1", 9464, None, {})]
    assert capsys.readouterr().out == f"metrics of this node: {command.url}\n"
    assert not command.open
    ((stop, shared, linger_s, node_ended),) = command.waited
    assert (shared.path, linger_s, node_ended()) == (tmp_path, None, False)
    assert command.signals.keys() == {signal.SIGINT, signal.SIGTERM}
    for obey in command.signals.values():
        assert not stop.is_set()
        obey(0, None)
        assert stop.is_set()
        stop.clear()


def test_it_is_told_where_and_for_how_long(command: Command, tmp_path: Path) -> None:
    targets = tmp_path / "targets"
    options = ["--host", "::", "--port", "7", "--targets", str(targets), "--linger-s", "3.5", "--node-pid", "8"]
    exporter.main(["--directory", str(tmp_path), *options, "--also", "ray=a:1", "--also", "other=b:2=c"])
    assert command.made == [(tmp_path, "::", 7, targets, {"ray": "a:1", "other": "b:2=c"})]
    assert command.waited[0][2] == 3.5


def test_of_a_node_that_has_ended_nothing_is_served(command: Command, tmp_path: Path) -> None:
    exporter.main(["--directory", str(tmp_path / "node"), "--node-pid", "9"])
    assert (command.made, command.waited) == ([], [])


def test_where_it_cannot_listen_it_says_so(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.failure = OSError("it is taken")
    with pytest.raises(SystemExit) as ended:
        exporter.main(["--directory", str(tmp_path), "--host", "10.0.0.1", "--port", "7"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "cannot serve metrics on 10.0.0.1:7: it is taken\n"


class Waits(threading.Event):
    """Is asked to wait, and says at the so manieth time that it was set; meanwhile so many seconds pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int = 99) -> None:
        super().__init__()
        self.asked: list[float | None] = []
        self._times = times
        monkeypatch.setattr(exporter, "time", SimpleNamespace(monotonic=lambda: 100.0 + 2 * len(self.asked)))

    def wait(self, timeout: float | None = None) -> bool:
        self.asked.append(timeout)
        return len(self.asked) == self._times


@pytest.mark.parametrize(("linger_s", "looks"), [(0.0, 2), (3.5, 3), (4.0, 4), (5.0, 4)])
def test_it_lingers_for_longer_than_that(
    linger_s: float, looks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = Waits(monkeypatch)
    shared: Any = SimpleNamespace(path=tmp_path, alive=lambda: False)
    exporter.wait_for_end(waits, shared, linger_s, lambda: False)
    assert waits.asked == [exporter.CHECK_S] * looks


def test_whether_somebody_records_cannot_always_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def alive() -> bool:
        raise OSError("too many files are open")

    waits = Waits(monkeypatch)
    exporter.wait_for_end(waits, SimpleNamespace(path=tmp_path, alive=alive), 3.0, lambda: False)  # type: ignore[arg-type]
    assert len(waits.asked) == 3


def test_by_itself_it_waits_for_its_end_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, shared = Waits(monkeypatch, 5), SimpleNamespace(path=tmp_path, alive=lambda: False)
    exporter.wait_for_end(waits, shared, None, lambda: False)  # type: ignore[arg-type]
    assert waits.asked == [None] * 5
    for path, ended in ((tmp_path / "gone", False), (tmp_path, True)):
        waits = Waits(monkeypatch, 5)
        shared.path = path
        exporter.wait_for_end(waits, shared, None, lambda ended=ended: ended)  # type: ignore[arg-type, misc]
        assert waits.asked == [None]


def test_whether_a_node_has_ended_is_asked_of_the_kernel_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not exporter.end_of(None)()
    monkeypatch.delattr(exporter.os, "pidfd_open")
    assert not exporter.end_of(2**22 + 1)(), "there is none with this id, but nobody can tell"


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & {"probe", "metrics-page"}


def test_an_exporter_leaves_no_thread_whether_it_could_begin_or_not(tmp_path: Path) -> None:
    with NodeExporter(tmp_path, port=0) as made:
        assert threads() == {"probe", "metrics-page"}
        port = made.port
        addresses = []
        for host in ("127.0.0.1", "0.0.0.0", "::", "::1", "node"):
            made.host = host
            addresses.append(made.address)
        assert addresses == [f"{host}:{port}" for host in ("127.0.0.1", "127.0.0.1", "[::1]", "[::1]", "node")]
        assert made.url == f"http://node:{port}/metrics"
        made.host = "127.0.0.1"
    wait_until(lambda: not threads(), "a thread goes on")
    with NodeExporter(tmp_path, port=0) as made:
        with pytest.raises(OSError, match="in use"):
            NodeExporter(tmp_path, port=made.port)
        wait_until(
            lambda: (
                sorted(one.name for one in threading.enumerate() if one.name in threads()) == ["metrics-page", "probe"]
            ),
            "the other one's goes on",
        )


def test_it_is_announced_with_the_others_until_it_is_closed(tmp_path: Path) -> None:
    node, targets = tmp_path / "node-a", tmp_path / "targets"
    told: list[tuple[object, ...]] = []

    class Announced:
        def __init__(self, *arguments: object) -> None:
            told.append(arguments)

        def close(self) -> None:
            told.append(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "Announcement", Announced)
        with NodeExporter(node, port=0, targets=targets, others={"ray": "127.0.0.1:2"}) as made:
            assert told == [(targets, "node-a", {JOB: f"127.0.0.1:{made.port}", "ray": "127.0.0.1:2"})]
    assert told[1:] == [()]
