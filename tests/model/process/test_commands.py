"""The loop of rank 0 on the toy network, in a thread: what it makes of commands, however they arrive."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.engine import Engine
from model.process import loop
from model.process.loop import EngineLoop
from model.process.wire import HEADER, Abort, Command, Ping, Pong, Report, Shutdown, Step, Submit, frame, report
from model.request import Request, SamplingParams
from model.statistics import GpuMemory
from monitoring.metrics import ENGINE_STEPS
from tests.support.descriptors import many_descriptors
from tests.support.toy_engine import naive, tokens_of, toy_engine
from tests.support.waiting import wait_until


def request(request_id: str, max_tokens: int = 3) -> Request:
    return Request(request_id, [1, 2], SamplingParams(max_tokens, temperature=0, ignore_eos=True))


class Served:
    """The client's end of the socket."""

    def __init__(self, path: Path, ending: threading.Thread) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60)
        wait_until(path.exists)
        self._ending = ending

        def connects() -> bool:
            with contextlib.suppress(ConnectionRefusedError):  # it is bound, and does not listen yet
                self._socket.connect(str(path))
                return True
            return False

        wait_until(connects)
        wait_until(lambda: not path.exists(), "nobody else is to find it")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def hear(self) -> Report:
        (length,) = HEADER.unpack(self._exactly(HEADER.size))
        return report(self._exactly(length))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            assert more, "the loop has ended"
            data += more
        return data

    def close(self) -> None:
        self._socket.close()

    def ended(self) -> None:
        self._ending.join(60)
        assert not self._ending.is_alive()


@contextlib.contextmanager
def serving(engine: Engine, directory: Path) -> Iterator[Served]:
    path = directory / "engine"
    running = threading.Thread(target=EngineLoop(engine, str(path), [10, 20]).run, daemon=True)
    running.start()
    served = Served(path, running)
    try:
        yield served
    finally:
        served.close()
        served.ended()


def outputs_of(served: Served, request_id: str) -> list[Step]:
    """The steps until the request has its end."""
    steps: list[Step] = []
    while True:
        heard = served.hear()
        assert isinstance(heard, Step)
        steps.append(heard)
        if any(o.request_id == request_id and o.finish_reason for o in heard.outputs):
            return steps


@pytest.mark.parametrize("piece", [1, 3, 7, 10_000])
def test_commands_may_come_in_any_pieces(tmp_path: Path, piece: int) -> None:
    commands: list[Command] = [Submit([request("a"), request("b", 5)]), Ping(7), Submit([request("c", 4)])]
    data = b"".join(map(frame, commands))
    engine = toy_engine(num_blocks=400)
    with serving(engine, tmp_path) as served:
        for start in range(0, len(data), piece):
            served.send(data[start : start + piece])
        heard: list[Report] = []
        while sum(o.finish_reason is not None for s in heard if isinstance(s, Step) for o in s.outputs) < 3:
            heard.append(served.hear())
        assert [one.number for one in heard if isinstance(one, Pong)] == [7]
        outputs = [output for one in heard if isinstance(one, Step) for output in one.outputs]
        for one in (request("a"), request("b", 5), request("c", 4)):
            assert tokens_of([o for o in outputs if o.request_id == one.request_id]) == naive(one)
        served.send(frame(Shutdown()))
        served.ended()


def test_every_step_is_told_with_its_timing_and_the_statistics(tmp_path: Path) -> None:
    engine = toy_engine()
    with serving(engine, tmp_path) as served:
        served.send(frame(Submit([request("a")])))
        steps = outputs_of(served, "a")
        assert [len(step.outputs) for step in steps] == [1, 1, 1]
        assert [step.stats.running for step in steps] == [1, 1, 0]
        assert [step.stats[ENGINE_STEPS] for step in steps] == [1, 2, 3]
        assert all(step.stats.parameter_bytes == [10, 20] for step in steps)
        assert [step.timing.tokens if step.timing else None for step in steps] == [2, 1, 1]


def test_an_abort_is_news_at_once_where_no_step_will_carry_it(tmp_path: Path) -> None:
    engine = toy_engine(max_num_seqs=1, num_blocks=400)
    with serving(engine, tmp_path) as served:
        served.send(frame(Submit([request("a", 60), request("b", 60)])) + frame(Abort(["a", "b", "unknown"])))
        heard = served.hear()
        assert isinstance(heard, Step)
        assert (heard.outputs, heard.timing, heard.stats.running, heard.stats.waiting) == ([], None, 0, 0)
        served.send(frame(Submit([request("c", 2)])))
        assert [o.request_id for step in outputs_of(served, "c") for o in step.outputs] == ["c", "c"]


def test_a_ping_asks_the_ranks(tmp_path: Path) -> None:
    engine = toy_engine()
    asked: list[float] = []
    gpu = GpuMemory("one", 3, 4)
    engine.executor.ping = lambda timeout_s: asked.append(timeout_s) or [gpu]  # type: ignore[method-assign]
    with serving(engine, tmp_path) as served:
        served.send(frame(Ping(3)))
        heard = served.hear()
        assert isinstance(heard, Pong)
        assert (heard.number, heard.gpus, heard.stats.parameter_bytes) == (3, [gpu], [10, 20])
        assert asked == [loop.RANK_REPLY_SECONDS]


@pytest.mark.parametrize("working", [False, True])
def test_it_ends_when_its_client_has_gone(tmp_path: Path, working: bool) -> None:
    with serving(toy_engine(num_blocks=400), tmp_path) as served:
        if working:
            served.send(frame(Submit([request("a", 60)])))
            served.hear()
        served.close()
        served.ended()


def test_what_comes_while_it_works_is_heard_between_two_steps(tmp_path: Path) -> None:
    """Without waiting for the work to end."""
    engine = toy_engine(num_blocks=400, max_model_len=800)
    with serving(engine, tmp_path) as served:
        served.send(frame(Submit([request("long", 700)])))
        served.hear()
        served.send(frame(Ping(5)))
        heard = [served.hear()]
        while not isinstance(heard[-1], Pong):
            heard.append(served.hear())
        assert heard[-1].stats.running == 1, "the work goes on"
        served.send(frame(Abort(["long"])))


def test_a_process_may_have_any_number_of_descriptors(tmp_path: Path) -> None:
    with many_descriptors(), serving(toy_engine(), tmp_path) as served:
        served.send(frame(Submit([request("a", 2)])))
        assert len(tokens_of([output for step in outputs_of(served, "a") for output in step.outputs])) == 2


def test_without_work_it_looks_for_leaks_once_and_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "IDLE_CHECK_SECONDS", 0.01)
    waits: list[float | None] = []
    comes = EngineLoop._comes

    def noted(self: EngineLoop, timeout_s: float | None) -> bool:
        waits.append(timeout_s)
        return comes(self, timeout_s)

    monkeypatch.setattr(EngineLoop, "_comes", noted)
    engine = toy_engine()
    checks: list[int] = []
    engine.check_integrity = lambda: checks.append(1)  # type: ignore[method-assign]
    with serving(engine, tmp_path) as served:
        wait_until(lambda: None in waits, "it does not come to rest")
        assert (waits, len(checks)) == ([0.01, None], 1)
        served.send(frame(Submit([request("a", 2)])))
        outputs_of(served, "a")
        wait_until(lambda: waits.count(None) == 2)
        assert waits[2:] == [0, 0.01, None], "one step between two looks, and rest"
        assert len(checks) == 2
