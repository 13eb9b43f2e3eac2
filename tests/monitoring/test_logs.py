"""One JSON object a line, whoever logs, and what people see of it."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitoring import logs
from tests.support.linear import is_linear
from tests.support.log_lines import captured

SECRET = "api_key = 'hunter2 is my password'"


def test_an_event_is_one_line_with_the_process_and_no_empty_fields() -> None:
    before = datetime.now(UTC)
    with captured() as lines:
        logs.event("engine.ready", "two\nlines", seconds=1.5, model="pico", nothing=None)
    assert lines.text.count("\n") == 1
    (line,) = lines.all()
    time = datetime.fromisoformat(line.pop("time"))
    assert abs((time - before).total_seconds()) < 60
    assert line == {
        "level": "info",
        "event": "engine.ready",
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


def test_sizes_are_readable() -> None:
    line = {"time": "2026-11-24T22:05:56.000Z", "event": "engine.ready", "a_bytes": 9_892_992, "b_bytes": 3 << 30}
    assert logs.as_text(line)[9:] == "engine.ready a_bytes=9.4MiB b_bytes=3.0GiB"


def test_only_our_lines_are_recognized() -> None:
    for text in ("", "{}", '{"time":"2026', "(raylet) hello", '["time"]'):
        assert logs.parse(text) is None
