"""What the command prints of its workers' log: text on a terminal, JSON elsewhere, nothing of Ray's chatter."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.command.console import Console
from monitoring import events

LINE = (
    '{"time":"2026-11-24T22:05:56.000Z","level":"warning","event":"engine.dead","message":"rank 1 died",'
    '"process":"engine","replica":"abc","pid":7}'
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def batch(*lines: str, **fields: Any) -> dict[str, Any]:
    return {"lines": list(lines), "is_err": False, "pid": 7, "actor_name": "ServeReplica:starcoder:engine", **fields}


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_a_warning_has_a_colour_where_it_is_wanted(
    no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    console = Console("auto", out := Terminal(), io.StringIO())
    console.worker_printed(batch(LINE), lambda _: None)
    console.flush()
    assert ("\033[33m" in out.getvalue()) is coloured


def test_on_a_terminal_lines_are_text_and_ray_prints_the_rest() -> None:
    out, shown = Terminal(), []
    console = Console("auto", out, io.StringIO())
    console.show_foreign = True
    console.worker_printed(batch(LINE, "a print"), shown.append)
    console.flush()
    assert "WARNING engine.dead: rank 1 died" in out.getvalue()
    assert out.getvalue().startswith("\r\033[K"), "behind a step that is rewritten in place"
    assert "{" not in out.getvalue()
    assert [entry["lines"] for entry in shown] == [["a print"]]


def test_a_line_of_the_commands_own_says_whose_it_is() -> None:
    console = Console("json", out := io.StringIO(), io.StringIO())
    console.say("  it goes on\n", seconds=1.5)
    console.flush()
    told = json.loads(out.getvalue())
    assert (told["event"], told["message"], told["seconds"]) == ("server.progress", "it goes on", 1.5)
    assert (told["level"], told["process"], told["pid"]) == ("info", "serve", os.getpid())


def test_how_bad_it_is_stands_in_a_line_of_the_commands_own() -> None:
    console = Console("json", out := io.StringIO(), io.StringIO())
    console.say("It ended.", "server.ray_ended", "error")
    console.flush()
    told = json.loads(out.getvalue())
    assert (told["event"], told["level"], told["message"]) == ("server.ray_ended", "error", "It ended.")


def test_lines_that_could_not_be_written_are_counted_in_one() -> None:
    told = json.loads(Console("json", io.StringIO(), io.StringIO())._dropped(3))
    assert (told["event"], told["level"], told["lines"]) == ("log.dropped", "warning", 3)
    assert (told["process"], told["pid"]) == ("serve", os.getpid())
    assert Console("text", io.StringIO(), io.StringIO())._dropped(3) == "(the log could not be written: 3 lines)\n"


def test_elsewhere_everything_is_json() -> None:
    out = io.StringIO()
    console = Console("auto", out, io.StringIO())
    console.show_foreign = True
    console.worker_printed(batch(LINE, "a print", ""), lambda _: pytest.fail("not for Ray to print"))
    console.worker_printed(batch("resources", pid="autoscaler"), lambda _: pytest.fail("not for Ray to print"))
    with console.step("starting Ray") as say:
        say("half")
        say("half")
    console.flush()
    first, *others = out.getvalue().splitlines()
    assert first == LINE
    assert [(line["event"], line["message"]) for line in map(json.loads, others[:2])] == [
        ("output", "a print"),
        ("server.progress", "half"),
    ]
    assert len(others) == 3
    assert json.loads(others[2])["message"].startswith("starting Ray: ")


@pytest.mark.parametrize(
    ("pid", "name", "whose"),
    [
        ("71", "ServeReplica:x", {"process": "ServeReplica:x", "pid": 71}),
        (71, None, {"process": "ray", "pid": 71}),
        ("raylet", None, {"process": "raylet"}),
    ],
)
def test_a_line_of_rays_says_whose_it_is(pid: object, name: str | None, whose: dict[str, object]) -> None:
    console = Console("json", out := io.StringIO(), io.StringIO())
    console.show_foreign = True
    console.worker_printed(batch("[2026-11-27 12:00:00,1 E 1 1] x", pid=pid, actor_name=name), lambda _: None)
    console.flush()
    line = json.loads(out.getvalue())
    assert {field: line[field] for field in ("process", "pid") if field in line} == whose
    assert events.wrong(line) == []
    assert line["level"] == "error"


def test_the_format_can_be_chosen() -> None:
    assert Console("json", Terminal(), io.StringIO()).as_json
    assert not Console("text", io.StringIO(), io.StringIO()).as_json


def test_what_ray_prints_is_kept_back_while_starting_and_the_controllers_tracebacks_always() -> None:
    out, shown = io.StringIO(), []
    console = Console("text", out, io.StringIO())
    console.worker_printed(batch(LINE, "noise"), shown.append)
    console.show_foreign = True
    console.worker_printed(batch("Traceback ...", actor_name="ServeController"), shown.append)
    assert shown == []
    console.flush()
    assert "engine.dead" in out.getvalue()


def test_a_reader_that_went_away_does_not_end_the_server() -> None:
    out = io.StringIO()
    console = Console("json", out, io.StringIO())
    out.close()
    console.say("still here")
    console.flush()


def test_a_terminal_that_stands_still_holds_up_nothing() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    out = open(write, "w")  # noqa: SIM115
    console = Console("json", out, io.StringIO())
    for _ in range(1000):
        console.say("x" * 10_000)  # one that waited for the terminal would never return
    os.close(read)  # lets the writer go on, which fails
    console.flush()
    out.close()


def test_a_process_ends_though_nobody_reads_what_it_prints() -> None:
    """Python would flush its standard output when it ends, and wait."""
    code = (
        "from deployments.command.console import Console; c = Console('json')\nfor _ in range(100): c.say('x' * 10_000)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.wait(60) == 0
    assert process.stdout is not None
    process.stdout.close()


@given(st.data())
def test_a_line_that_comes_in_two_pieces_is_one(data: st.DataObject) -> None:
    """Ray reads the file while it is written, and takes what is there for a line."""
    at = data.draw(st.integers(1, len(LINE) - 1))
    out = io.StringIO()
    console = Console("json", out)
    console.show_foreign = True
    console.worker_printed(batch("a print", LINE[:at]), lambda _: None)
    console.worker_printed(batch("{ of another process", pid=4), lambda _: None)
    console.worker_printed(batch(LINE[at:], LINE), lambda _: None)
    console.flush()
    assert out.getvalue().count(LINE + "\n") == 2
    assert out.getvalue().count("\n") == 4


def test_what_only_looks_like_the_beginning_of_a_line_is_printed_all_the_same() -> None:
    out = io.StringIO()
    console = Console("json", out)
    console.show_foreign = True
    console.worker_printed(batch("{"), lambda _: None)
    console.worker_printed(batch('  "a": 1'), lambda _: None)
    console.flush()
    assert [json.loads(line)["message"] for line in out.getvalue().splitlines()] == ['{\n  "a": 1']


def test_a_step_is_rewritten_in_place_on_a_terminal() -> None:
    console = Console("auto", out := Terminal(), progress := Terminal())
    with console.step("starting Ray") as say:
        for text in ("half", "half", "whole"):
            say(text)
    console.flush()
    *shown, last = progress.getvalue().split("\r\033[K")
    assert shown == ["", "  starting Ray ...", "  half", "  whole"]
    assert re.fullmatch(r"  starting Ray: \d+\.\d s\n", last)
    assert out.getvalue() == ""


def test_elsewhere_a_step_is_a_line_with_what_it_took_and_one_for_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 101.236] * 2)
    monkeypatch.setattr("deployments.command.console.time", SimpleNamespace(monotonic=lambda: next(times)))
    said = []
    for format in ("json", "text"):
        console = Console(format, out := io.StringIO(), progress := io.StringIO())
        with console.step("starting Ray") as say:
            say("half")
            say("half")
        console.flush()
        said.append((out.getvalue(), progress.getvalue()))
    (lines, nothing), plain = said
    half, whole = map(json.loads, lines.splitlines())
    assert (half["message"], whole["message"], whole["seconds"]) == ("half", "starting Ray: 1.2 s", 1.24)
    assert "seconds" not in half
    assert nothing == ""
    assert plain == ("", "  half\n  starting Ray: 1.2 s\n")


def test_ray_leaves_the_printing_of_its_workers_lines_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_logging

    shown: list[tuple[str, object]] = []
    dispatcher = ray_logging.WorkerStandardStreamDispatcher()
    dispatcher.add_handler("ray_print_logs", lambda data: shown.append(("Ray", data)))
    dispatcher.add_handler("another", lambda data: shown.append(("another", data)))
    monkeypatch.setattr(ray_logging, "global_worker_stdstream_dispatcher", dispatcher)
    console = Console("auto", out := Terminal(), io.StringIO())
    console.listen_to_workers()
    data = batch(LINE, "a print")
    dispatcher.emit(data)
    console.show_foreign = True
    dispatcher.emit(data)
    console.flush()
    assert out.getvalue().count("rank 1 died") == 2
    assert shown == [("another", data), ("another", data), ("Ray", {**data, "lines": ["a print"]})]


def test_as_text_everybody_prints_for_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console("text", out := io.StringIO(), io.StringIO())
    with console.alone():
        print("of Ray's")
    console.flush()
    assert (out.getvalue(), capsys.readouterr().out) == ("", "of Ray's\n")


def test_as_json_what_is_printed_meanwhile_is_of_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def captured(tell: Callable[[list[str]], None]) -> Iterator[None]:
        yield
        tell([LINE, "WARNING: of Ray's"])

    monkeypatch.setattr("deployments.command.console.captured", captured)
    console = Console("json", out := io.StringIO(), io.StringIO())
    with console.alone():
        assert not console.show_foreign
    console.flush()
    ours, other = out.getvalue().splitlines()
    assert ours == LINE
    told = json.loads(other)
    assert (told["event"], told["level"], told["process"]) == ("output", "warning", "ray")
    assert told["message"] == "WARNING: of Ray's"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["time"])
    assert "pid" not in told


@pytest.mark.parametrize(("options", "kept"), [({"keep_text": True}, True), ({"keep_text": False}, False), ({}, False)])
def test_what_others_quote_is_left_out_unless_it_may_be_kept(options: dict[str, bool], kept: bool) -> None:
    console = Console("json", out := io.StringIO(), io.StringIO(), **options)
    console.show_foreign = True
    console.worker_printed(batch("ValueError: no such thing as 'my secret'"), lambda _: None)
    console.flush()
    assert ("my secret" in json.loads(out.getvalue())["message"]) is kept


def test_a_command_speaks_to_standard_output_and_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that it began with: whoever starts Ray keeps it from printing meanwhile. There may be none."""
    streams = {name: io.StringIO() for name in ("__stdout__", "__stderr__", "stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    for format in ("json", "text"):
        console = Console(format)
        console.say(f"as {format}")
        console.flush()
    assert '"as json"' in streams["__stdout__"].getvalue()
    assert streams["__stderr__"].getvalue() == "as text\n"
    with monkeypatch.context() as without:
        for name in ("__stdout__", "__stderr__"):
            without.setattr(sys, name, None)
        console = Console("text")
        console.say("without them")
        console.flush()
    assert (streams["stdout"].getvalue(), streams["stderr"].getvalue()) == ("", "without them\n")


def test_a_beginning_that_nothing_continues_stays_of_its_process() -> None:
    """Of another machine of the cluster one may have the same number."""
    console = Console("json", out := io.StringIO(), keep_text=True)
    console.show_foreign = True
    half = len(LINE) // 2
    for ip, part in (("10.0.0.1", LINE[:half]), ("10.0.0.2", LINE[:half]), ("10.0.0.2", LINE[half:])):
        console.worker_printed(batch(part, ip=ip), lambda _: None)
    console.flush()
    assert out.getvalue() == LINE + "\n"
    for lines in ([], ["another"]):
        console.worker_printed(batch(*lines, ip="10.0.0.1"), lambda _: None)
    console.flush()
    assert [json.loads(line)["message"] for line in out.getvalue().splitlines()[1:]] == [LINE[:half], "another"]
