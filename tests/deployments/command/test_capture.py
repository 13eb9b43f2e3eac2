"""What a process and its children print comes in lines, and goes nowhere else."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from deployments.command import capture
from monitoring import events, logs
from tests.support.waiting import wait_until

PRINTS = """
import os, subprocess, sys, warnings
from deployments.command.console import Console

console = Console("json")
with console.alone():
    print("from Python")
    warnings.warn("slow", stacklevel=1)
    os.write(2, b"[2026-11-27 12:00:00,1 E 1 1] (raylet) from.cc:1: C++\\n")
    os.write(1, b"10%\\r20%\\r")
    os.write(1, b"30%\\n")
    os.write(1, b'{"time":"2026-11-27T10:46:31.849Z","level":"error","event":"engine.dead","message":"of ours"}\\n')
    sys.stderr.flush()
    subprocess.run(["sh", "-c", "echo from a child; echo and its errors >&2"])
    try:
        open("/no/such/file")
    except OSError:
        import traceback
        traceback.print_exc()
    console.say("Ready.", "server.ready", seconds=1.5)
    os.write(1, b"without an end")
console.flush()
"""


def test_every_line_of_a_server_whose_log_is_json_is_an_object_as_declared() -> None:
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [fault for line in lines for fault in events.wrong(line)] == []
    said = {line["message"]: (line["event"], line["level"]) for line in lines}
    assert said["from Python"] == said["30%"] == said["from a child"] == said["without an end"] == ("output", "info")
    assert said["of ours"] == ("engine.dead", "error")
    assert said["Ready."] == ("server.ready", "info")
    assert said["[2026-11-27 12:00:00,1 E 1 1] (raylet) from.cc:1: C++"] == ("output", "error")
    (warning,) = [message for message in said if "UserWarning: slow" in message]
    assert said[warning] == ("output", "warning")
    (traceback,) = [message for message in said if message.startswith("Traceback")]
    assert "FileNotFoundError" in traceback
    assert "/no/such/file" not in traceback, "what an exception quotes may be a text"
    assert logs.parse(done.stdout.splitlines()[0]) is not None


def test_what_comes_after_the_block_goes_where_it_went() -> None:
    code = PRINTS + "\nprint('after')\nprint('and here', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "after"
    assert done.stderr == "and here\n"


def run(body: str) -> subprocess.CompletedProcess[str]:
    """In a process whose log is JSON. body: what it does while it is captured."""
    head = "import ctypes, os, signal\nfrom deployments.command.console import Console\nconsole = Console('json')\n"
    code = f"{head}with console.alone():\n{textwrap.indent(body, '    ')}\nconsole.flush()\n"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def messages(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["message"] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("begins", ["{", logs._LINE_START + '2026", "a": {'])
def test_a_line_that_is_hard_to_read_is_told_like_any_other(begins: str) -> None:
    """And whoever prints the next one is not ended by a pipe that nobody reads."""
    line = begins + '"a":{' * 3_000
    assert messages(run(f"print({line!r})\nprint('the next')")) == [line, "the next"]


def test_what_cannot_be_told_ends_nobody() -> None:
    body = """
def tell(*_, **__):
    console._pass_on = original
    raise ValueError("a mistake of ours")
original, console._pass_on = console._pass_on, tell
print("lost")
while console._pass_on is tell:
    pass
print("the next")
"""
    done = run(body)
    assert messages(done) == ["ERROR 1 lines that were printed cannot be told: ValueError", "the next"]
    assert json.loads(done.stdout.splitlines()[0])["level"] == "error"


def test_c_code_that_prints_much_and_holds_the_interpreter_is_not_waited_for() -> None:
    text = "x" * 200_000
    body = f"assert ctypes.PyDLL(None).write(1, b'x' * {len(text)} + b'\\n', {len(text) + 1}) == {len(text) + 1}"
    assert "".join(messages(run(body)))[:100] == text[:100]


def test_a_crash_has_its_last_words_where_standard_error_went() -> None:
    done = run("os.kill(os.getpid(), signal.SIGSEGV)")
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr


def test_what_comes_later_is_told_as_well_and_a_line_with_its_end() -> None:
    told: list[str] = []
    read, write = os.pipe()
    thread = threading.Thread(target=capture._read, args=(read, told.extend))
    thread.start()
    for text, known in ((b"a\nb\nbeg", ["a", "b"]), (b"un\n", ["a", "b", "begun"])):
        os.write(write, text)
        wait_until(lambda known=known: told == known)
    os.write(write, b"no end")
    os.close(write)
    thread.join()
    assert told == ["a", "b", "begun", "no end"]


def test_a_line_without_an_end_is_told_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "LONGEST_LINE", 4)
    monkeypatch.setattr(capture, "READ_BYTES", 2)
    told: list[str] = []
    read, write = os.pipe()
    os.write(write, b"1234567890\n")
    os.close(write)
    capture._read(read, told.extend)
    assert told == ["123456", "7890", ""]


class Crashes:
    """Python's `faulthandler`: to which descriptors it was told to write, None where to none."""

    def __init__(self, enabled: bool) -> None:
        self.told: list[int | None] = []
        self._enabled = enabled

    def is_enabled(self) -> bool:
        return self._enabled

    def enable(self, descriptor: int) -> None:
        os.fstat(descriptor)
        self.told.append(descriptor)

    def disable(self) -> None:
        self.told.append(None)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("crashes_told", [False, True])
def test_the_two_descriptors_are_put_back_and_nothing_is_left(
    crashes_told: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capture, "faulthandler", crashes := Crashes(crashes_told))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(os.fdopen(os.dup(1), "wb")))
    monkeypatch.setattr(sys, "stderr", None)
    told: list[str] = []
    before = descriptors()
    with capture.captured(told.extend):
        os.write(1, b"out\n")
        wait_until(lambda: told == ["out"])
        assert fcntl.fcntl(1, fcntl.F_GETPIPE_SZ) == fcntl.fcntl(2, fcntl.F_GETPIPE_SZ) == capture.PIPE_BYTES
        assert not os.get_inheritable(crashes.told[-1] or 0), "children keep the pipe alone"
        print("to a copy")
        assert capfd.readouterr() == ("to a copy\n", ""), "line by line"
        os.write(2, b"err")
    assert told == ["out", "err"]
    assert crashes.told[1:] == [2 if crashes_told else None]
    wait_until(lambda: descriptors() <= before)
    os.write(1, b"after\n")
    os.write(2, b"and here\n")
    assert capfd.readouterr() == ("after\n", "and here\n")


def test_a_program_is_not_held_up_by_who_keeps_the_pipe(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A child that lives on."""
    monkeypatch.setattr(capture, "faulthandler", Crashes(False))
    monkeypatch.setattr(capture, "END_S", 0.01)
    before = threading.enumerate()
    with contextlib.ExitStack() as stack:
        with capture.captured(lambda lines: None):
            kept = os.dup(1)
            stack.callback(os.close, kept)
        (reader,) = [thread for thread in threading.enumerate() if thread not in before]
        assert reader.name == "captured output"
        assert reader.daemon
    wait_until(lambda: not reader.is_alive())


def test_lines_are_handed_over_together_but_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast they come."""
    monkeypatch.setattr(capture, "MOST_LINES", 3)
    monkeypatch.setattr(capture, "READ_BYTES", 2)
    told: list[list[str]] = []
    read, write = os.pipe()
    os.write(write, b"1\n2\n3\n4\n5\n6\n7")
    os.close(write)
    capture._read(read, told.append)
    assert told == [["1", "2", "3"], ["4", "5", "6"], ["7"]]


def test_what_is_no_text_is_told_as_far_as_it_is() -> None:
    told: list[str] = []
    read, write = os.pipe()
    os.write(write, b"na\xefve\n")
    os.close(write)
    capture._read(read, told.extend)
    assert told == ["na\N{REPLACEMENT CHARACTER}ve", ""]


def test_whoever_cannot_be_told_of_even_that_is_left_alone() -> None:
    asked: list[int] = []

    def tell(lines: list[str]) -> None:
        asked.append(len(lines))
        raise OSError("no space is left")

    capture._whatever_comes(tell)(["a", "b", "c"])
    assert asked == [3, 1]
