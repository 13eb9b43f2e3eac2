"""One JSON object a line, whoever logs, and what people see of it."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from monitoring import logs
from tests.support.linear import is_linear
from tests.support.log_lines import captured
from tests.support.zones import standing_at

SECRET = "api_key = 'hunter2 is my password'"


def test_an_event_is_one_line_with_the_process_and_no_empty_fields() -> None:
    before = datetime.now(UTC)
    with captured() as lines:
        logs.event("a.measurement", "two\nlines", seconds=1.5, model="pico", nothing=None)
    assert lines.text.count("\n") == 1
    (line,) = lines.all()
    time = datetime.fromisoformat(line.pop("time"))
    assert abs((time - before).total_seconds()) < 60
    assert line == {
        "level": "info",
        "event": "a.measurement",
        "seconds": 1.5,
        "model": "pico",
        "message": "two\nlines",
        "process": "test",
        "pid": os.getpid(),
    }


def test_libraries_log_lines_too_from_warnings_on() -> None:
    with captured() as lines:
        logging.getLogger("some.library").info("not this")
        logging.getLogger("some.library").warning("but %s", "this")
        logging.getLogger("deployments.replica.service").info("ours")
    assert [(line["logger"], line["message"]) for line in lines.all("log")] == [
        ("some.library", "but this"),
        ("deployments.replica.service", "ours"),
    ]


def test_the_level_is_that_of_our_own_lines() -> None:
    with captured("warning") as lines:
        logs.event("quiet")
        logs.event("loud", level=logging.WARNING)
    assert [line["event"] for line in lines.all()] == ["loud"]


def fail(text: str) -> None:
    raise KeyError(text)


@pytest.mark.parametrize("keep_text", [False, True])
def test_exceptions_are_logged_with_frames_but_without_what_they_quote(keep_text: bool) -> None:
    with captured(keep_text=keep_text) as lines:
        try:
            try:
                int(SECRET)
            except ValueError:
                fail(SECRET)
        except KeyError:
            logging.getLogger("starcoder").exception("failed on %r", SECRET)
    (line,) = lines.all()
    for part in ("KeyError", "ValueError", "in fail", f'File "{__file__}"', "caused by"):
        assert part in line["exception"]
    assert ("hunter2" in lines.text) is keep_text


def test_a_library_that_repeats_itself_is_heard_once() -> None:
    with captured() as lines:
        for _ in range(5):
            logging.getLogger("opentelemetry.exporter").error("'collector.monitoring' is away")
            logging.getLogger("other").error("each of these")
    assert [line["message"] for line in lines.all()].count("'collector.monitoring' is away") == 1
    assert [line["logger"] for line in lines.all()].count("other") == 5


@pytest.mark.parametrize(("name", "told"), [("ActorDiedError", False), ("ValueError", True)])
def test_of_a_process_that_died_rays_tasks_tell_nothing(name: str, told: bool) -> None:
    error = type(name, (Exception,), {})("the actor died")
    with captured() as lines:
        logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=error)
    assert bool(lines.all("log")) is told


def test_a_file_that_was_moved_away_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "starcoder.log"
    with captured():
        logs.configure("info", "auto", path, process="test")
        logs.event("first")
        logs.flush()
        path.rename(tmp_path / "starcoder.log.1")
        logs.event("second")
        logs.flush()
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["second"]


def test_a_pipe_is_as_good_as_a_file() -> None:
    """As /proc/1/fd/1 is in a pod: the standard output of the container."""
    read, write = os.pipe()
    with captured():
        logs.configure("info", "auto", Path(f"/proc/self/fd/{write}"), process="test")
        logs.event("through")
    os.close(write)
    with os.fdopen(read) as pipe:
        assert json.loads(pipe.readline())["event"] == "through"


def test_a_request_reads_as_a_sentence() -> None:
    line = {
        "time": "2026-11-24T22:05:56.000Z",
        "level": "info",
        "event": "request",
        "request_id": "r1",
        "team": "default",
        "model": "pico",
        "dialect": "openai",
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "outcome": "ok",
        "prompt_tokens": 40,
        "cached_tokens": 32,
        "completion_tokens": 16,
        "ttft_ms": 26.4,
        "duration_ms": 88.0,
        "process": "ingress",
        "pid": 1,
        "trace_id": "abc",
    }
    assert logs.as_text(line)[9:] == (
        "POST /v1/completions 200 ok, 40 (32 cached) + 16 tokens, first after 26 ms, 88 ms [r1] trace_id=abc"
    )
    failed = {**line, "level": "error", "error": {"code": "internal_error", "message": "It failed."}, "team": "blue"}
    assert logs.as_text({**failed, "exception": "a\nb"})[9:] == (
        "ERROR POST /v1/completions 200 ok, 40 (32 cached) + 16 tokens, first after 26 ms, 88 ms, It failed. [r1] "
        "team=blue trace_id=abc\n  a\n  b"
    )


def test_what_a_client_sent_cannot_move_the_cursor() -> None:
    line = {"time": "2026-11-24T22:05:56.000Z", "event": "request", "method": "GET", "path": "/\x1b[2J\nfake"}
    assert "GET /\\x1b[2J\\x0afake" in logs.as_text(line)


@pytest.mark.parametrize(
    ("message", "redacted"),
    [
        ("couldn't open 'a' or the engine's socket, it isn't there", None),
        ("bad value 'def secret(): pass' here", "bad value '…' here"),
        ("""bad 'it\\'s my "own" secret' here""", "bad '…' here"),
        ('got ["two", "a longer secret"]', 'got ["two", "…"]'),
        ('File "/a/long/path.py", line 3', None),
        ('File "<frozen runpy>", line 3, in it', None),
        ("unsupported operand '-' in all that", None),
        ("cut off: 'def secret(): pa", "cut off: '…'"),
    ],
)
def test_what_is_quoted_is_left_out(message: str, redacted: str | None) -> None:
    assert logs.redact(message) == (redacted or message)


def test_what_is_cut_off_within_a_quote_is_left_out_too() -> None:
    with captured() as lines:
        try:
            fail(f"{SECRET} " * 1000)
        except KeyError:
            logging.getLogger("starcoder").exception("failed")
    assert "hunter2" not in lines.text


@pytest.mark.parametrize("kind", ["single quotes", "quotes", "strings", "words", "backslashes"])
def test_quotes_are_looked_for_in_linear_time(kind: str) -> None:
    assert is_linear(lambda text: logs.redact(f" '{text}"), kind, 200_000)


@pytest.mark.parametrize(
    ("colour", "level", "painted"),
    [(True, "warning", "\033[33m"), (True, "error", "\033[31m"), (True, "debug", "\033[2m"), (True, "info", ""),
     (False, "error", "")],
)  # fmt: skip
def test_a_terminal_shows_how_grave_a_line_is(colour: bool, level: str, painted: str) -> None:
    line = {"time": "2026-11-24T22:05:56.000Z", "level": level, "event": "engine.lost", "model": "pico"}
    said = "engine.lost model=pico" if level == "info" else f"{level.upper()} engine.lost model=pico"
    text = logs.as_text(line, colour)
    assert text.endswith(f"{said}\033[0m" if painted else said)
    assert text.startswith(painted + (local := text.removeprefix(painted)[:8]))
    assert len(local.split(":")) == 3


def test_what_a_line_says_and_what_it_leaves_out() -> None:
    line = {
        "time": "2026-11-24T22:05:56.000Z",
        "event": "engine.lost",
        "message": "it hung",
        "process": "replica",
        "pid": 7,
        "replica": "r",
        "cause": "hung",
        "team": "default",
        "ranks": 0,
    }
    assert logs.as_text(line)[9:] == "engine.lost: it hung cause=hung ranks=0"
    library = {"time": line["time"], "level": "warning", "event": "log", "logger": "urllib3", "message": "gone"}
    assert logs.as_text(library)[9:] == "WARNING urllib3: gone"
    assert logs.as_text({"time": line["time"], "event": "log", "logger": "urllib3"})[9:] == "urllib3"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"status": None, "outcome": "aborted", "duration_ms": 12.4}, "- aborted, 12 ms"),
        ({"status": 400, "outcome": "refused"}, "400 refused, 0 ms"),
        ({"prompt_tokens": 3, "cached_tokens": 0}, "None, 3 + ? tokens, 0 ms"),
        ({"prompt_tokens": 3, "completion_tokens": 0, "ttft_ms": 0.6}, "None, 3 + 0 tokens, first after 1 ms, 0 ms"),
        ({"error": {"type": "a", "code": "b"}}, "None, 0 ms, a b"),
        ({"error": {"message": "", "code": "b"}}, "None, 0 ms,  b"),
    ],
)
def test_a_request_tells_what_is_known_of_it(fields: dict[str, object], told: str) -> None:
    line = {"time": "2026-11-24T22:05:56.000Z", "event": "request", "method": "GET", "path": "/x", "request_id": "r"}
    prefix = "GET /x " if "status" in fields else "GET /x - "
    assert logs.as_text({**line, **fields})[9:] == f"{prefix}{told} [r]"


def test_of_a_long_chain_the_first_causes_are_told_with_their_innermost_frames() -> None:
    def deep(left: int) -> None:
        if left:
            as_deep(left)
        raise ValueError("x" * 3000)

    def as_deep(left: int) -> None:  # frames that are all alike would be told as one
        deep(left - 1)

    def chained(number: int) -> None:
        try:
            if number:
                chained(number - 1)
            else:
                deep(20)
        except Exception as error:
            raise RuntimeError(f"number {number}") from error

    with pytest.raises(RuntimeError) as caught:
        chained(5)
    parts = logs.describe(caught.value).split("\ncaused by\n")
    assert [part.splitlines()[-1] for part in parts] == [f"RuntimeError: number {number}" for number in (5, 4, 3, 2)]
    with pytest.raises(ValueError, match="xxx") as caught_deep:
        deep(20)
    (one,) = logs.describe(caught_deep.value, keep_text=True).split("\ncaused by\n")
    assert (one.count(", in deep") + one.count(", in as_deep"), one.splitlines()[-1]) == (
        12,
        f"ValueError: {'x' * 2000}",
    )


def test_what_was_raised_in_place_of_another_hides_it() -> None:
    def fail(hidden: bool) -> None:
        try:
            raise KeyError("first")
        except KeyError:
            if hidden:
                raise ValueError("second") from None
            raise ValueError("second")  # noqa: B904

    for hidden in (True, False):
        with pytest.raises(ValueError, match="second") as caught:
            fail(hidden)
        assert ("KeyError" in logs.describe(caught.value)) is not hidden


def test_a_line_that_cannot_be_made_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    with captured() as lines:
        (handler,) = logging.getLogger().handlers
        monkeypatch.setattr(handler, "handleError", told.append)
        logging.getLogger("starcoder").warning("%d", "no number")
        logs.event("engine.stopped")
        assert [line["event"] for line in lines.all()] == ["engine.stopped"]
    (record,) = told
    assert isinstance(record, logging.LogRecord)
    assert record.msg == "%d"


def test_a_library_that_repeats_itself_is_heard_again_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5.0]
    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    throttle, records = logs.Throttle(), {name: logging.makeLogRecord({"name": name}) for name in ("urllib3", "x")}

    def heard(at: float, name: str = "urllib3.connection") -> bool:
        now[0] = at
        return throttle.filter(logging.makeLogRecord({"name": name}))

    assert throttle.filter(records["urllib3"])
    assert [heard(at) for at in (5.0, 64.9, 65.0, 66.0, 124.9, 125.0)] == [False, False, True, False, False, True]
    assert heard(125.0, "opentelemetry.sdk"), "another library has its own minute"
    assert not heard(126.0, "opentelemetry")
    assert all(throttle.filter(records["x"]) for _ in range(3))


def test_a_line_has_the_time_of_utc_and_a_terminal_that_of_its_people() -> None:
    """Wherever the server stands."""
    record = logging.makeLogRecord({"name": "starcoder", "msg": "x", "created": 36_000.5})
    with standing_at("UTC+9"):
        line = json.loads(logs.JsonFormatter({}).format(record))
        assert line["time"] == "1970-01-01T10:00:00.500Z"
        assert logs.as_text(line).startswith("01:00:00 ")


def test_a_time_is_told_in_milliseconds_of_its_second() -> None:
    formatter = logs.JsonFormatter({"process": "test"})

    def told(created: float) -> str:
        record = logging.makeLogRecord({"name": "starcoder", "msg": "x", "created": created})
        return str(json.loads(formatter.format(record))["time"])

    assert [told(at) for at in (1.25, 1.5, 2.0, 2.9996, 61.0078125, 86_400.0)] == [
        *("1970-01-01T00:00:01.250Z", "1970-01-01T00:00:01.500Z", "1970-01-01T00:00:02.000Z"),
        *("1970-01-01T00:00:02.999Z", "1970-01-01T00:01:01.007Z", "1970-01-02T00:00:00.000Z"),
    ]


@pytest.mark.parametrize(("length", "kept"), [(8, True), (9, False)])
def test_what_is_no_longer_than_a_name_is_kept(length: int, kept: bool) -> None:
    assert logs.redact(f"bad `{'x' * length}`") == f"bad `{'x' * length if kept else '…'}`"


def test_sizes_are_readable() -> None:
    line = {"time": "2026-11-24T22:05:56.000Z", "event": "engine.ready", "a_bytes": 9_892_992, "b_bytes": 3 << 30}
    assert logs.as_text(line)[9:] == "engine.ready a_bytes=9.4MiB b_bytes=3.0GiB"
    border = {"time": line["time"], "event": "x", "a_bytes": 1 << 30, "b_bytes": (1 << 30) - 1, "c_bytes": "?"}
    assert logs.as_text(border)[9:] == "x a_bytes=1.0GiB b_bytes=1024.0MiB c_bytes=?"


def test_only_our_lines_are_recognized() -> None:
    for text in ("", "{}", '{"time":"2026', "(raylet) hello", '["time"]'):
        assert logs.parse(text) is None
