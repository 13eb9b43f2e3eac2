"""How a server ends: all that it has started, whatever of it fails or hangs.

On a real Ray: tests/e2e, tests/faults.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray import serve

from deployments.cluster import roster
from deployments.command import local
from deployments.command.local import LAST_ANSWERS_S, RAY_STOP_S, SERVE_STOP_S, STREAMS_END_S, Server, bounded
from deployments.command.signals import Stopped
from deployments.settings import Settings


class Ending:
    """Ray and Serve. does: what was asked of them, in order; said: of the console. dead: of Ray's servers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.does: list[object] = []
        self.said: list[tuple[str, str, str]] = []
        self.dead: list[str] = []
        self.now = 1000.0
        self.answers_take = 0.0
        self.fails = False
        monkeypatch.setattr(local, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(local, "bounded", self._bounded)
        monkeypatch.setattr(local, "dead_servers", lambda: self.dead)
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(local.signals, "ignored", self._ignored)
        monkeypatch.setattr(local, "wait_for_answers", self._wait_for_answers)
        for name, where in {"delete": serve, "shutdown": serve, "say_draining": roster, "say_serving": roster}.items():
            monkeypatch.setattr(where, name, self._asked(name))
        for name in ("shut_down", "end_streams", "end_descendants", "remove_stale", "remove"):
            monkeypatch.setattr(local, name, self._asked(name))

    def server(self, address: str | None = None) -> Server:
        console = SimpleNamespace(say=lambda *said: self.said.append(said))
        made = Server(Settings(drain_timeout_s=20), console, address)  # type: ignore[arg-type]
        made._owns_application = made._owns_serve = True
        return made

    def _asked(self, name: str) -> Callable[..., None]:
        def do(*given: object) -> None:
            self.does.append((name, *given))
            if self.fails:
                raise RuntimeError("Ray has gone")

        return do

    def _bounded(self, work: Callable[[], None], seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        self.does.append(seconds)
        work()
        return not until()

    @contextlib.contextmanager
    def _ignored(self) -> Iterator[None]:
        self.does.append("a signal changes nothing")
        yield
        self.does.append("it does")

    def _wait_for_answers(self, settings: Settings, seconds: float) -> bool:
        self.does.append(("wait", seconds))
        self.now += min(seconds, self.answers_take)
        if self.fails:
            raise RuntimeError("Ray has gone")
        return self.answers_take <= seconds


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Ending:
    return Ending(monkeypatch)


@pytest.mark.parametrize(("answers_take", "last"), [(0, 20), (9, 11), (18, 10), (1000, 10)])
def test_answers_have_the_time_that_is_left(answers_take: float, last: float, ending: Ending) -> None:
    """Half of it before anything is taken down."""
    ending.answers_take = answers_take
    ending.server()._stop_application()
    assert ending.does == [
        20 + SERVE_STOP_S,
        ("say_draining", 20 + SERVE_STOP_S),
        ("wait", 10),
        ("delete", "starcoder"),
        ("say_serving",),
        ("wait", last),
        ("shutdown",),
    ]
    told = "Answers that their clients have not read by now are cut off."
    assert ending.said == ([] if answers_take <= last else [(told, "server.answers_cut", "warning")])


def test_the_last_answers_have_some_time_though_none_is_left(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "delete", lambda name: setattr(ending, "now", ending.now + 100))
    ending.server()._stop_application()
    assert [one for one in ending.does if one == ("wait", LAST_ANSWERS_S)]


def test_what_fails_keeps_nothing_else_from_being_ended(ending: Ending) -> None:
    ending.fails = True
    ending.server()._stop_application()
    asked = [one[0] for one in ending.does if isinstance(one, tuple)]
    assert asked == ["say_draining", "wait", "delete", "wait", "shutdown"]
    assert ending.said == []


def test_of_a_cluster_that_was_joined_nobody_waits_for_answers(ending: Ending) -> None:
    """Its proxies go on."""
    ending.server("ray:6379")._stop_application()
    asked = [one[0] for one in ending.does if isinstance(one, tuple)]
    assert asked == ["say_draining", "delete", "say_serving", "shutdown"]


def test_an_application_of_its_own_goes_and_serve_of_others_stays(ending: Ending) -> None:
    made = ending.server("ray:6379")
    made._owns_serve = False
    made._stop_application()
    assert ("delete", "starcoder") in ending.does
    assert ("shutdown",) not in ending.does


def test_without_ray_there_is_nothing_to_stop(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    ending.server()._stop_application()
    monkeypatch.delitem(sys.modules, "ray")
    ending.server()._stop_application()
    assert ending.does == []


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_when_ray_dies_streams_are_ended_in_a_moment(
    when: str, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = ["gcs_server", "raylet"]
    if when == "before":
        ending.dead = died
    else:
        monkeypatch.setattr(serve, "delete", lambda name: setattr(ending, "dead", died))
    ending.server()._stop_application()
    assert ending.does[-2:] == [STREAMS_END_S, ("end_streams",)]
    assert len(ending.does) == (2 if when == "before" else 9 - 1)
    told = "Not waiting for open streams: Ray's gcs_server, raylet ended."
    assert ending.said == [(told, "server.ray_ended", "error")]


@pytest.mark.parametrize("address", [None, "ray:6379"])
@pytest.mark.parametrize("dead", [[], ["raylet"]])
@pytest.mark.parametrize("directory", [None, Path("/tmp/of-a-server")])
def test_what_was_started_here_is_gone_at_the_end(
    address: str | None, dead: list[str], directory: Path | None, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second signal cuts short the waiting for streams, and nothing else."""

    def stopped() -> None:
        raise Stopped

    ending.dead = dead
    made = ending.server(address)
    made._directory = directory
    monkeypatch.setattr(made, "_stop_application", stopped)
    made._stop()
    assert ending.does == [
        "a signal changes nothing",
        *([] if dead else [RAY_STOP_S, ("shut_down",)]),
        *([("end_descendants",), ("remove_stale",)] if address is None else []),
        *([("remove", directory)] if directory else []),
        "it does",
    ]


def test_what_ray_prints_of_its_end_is_for_nobody(
    ending: Ending, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        print("a call was interrupted")
        print("an error of ours", file=sys.stderr)

    made = ending.server()
    monkeypatch.setattr(made, "_stop", stop)
    made.stop()
    assert capsys.readouterr() == ("", "an error of ours\n")


def test_work_that_is_given_up_keeps_no_process_alive() -> None:
    daemons: list[bool] = []
    assert bounded(lambda: daemons.append(threading.current_thread().daemon), 60)
    assert daemons == [True]
