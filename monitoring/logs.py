"""Structured logs: one JSON object a line, the same from every process, and how people read them on a terminal.

`event` writes a line with named fields; plain `logging` calls of any library become lines too, with
`"event": "log"`. `docs/observability.md` lists events and fields.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec

from monitoring.line_writer import LineWriter, Sink, to_file, to_stream

LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]

OWN_LOGGERS = ("starcoder", "deployments", "model", "monitoring")

THROTTLE_S = 60.0
"""Libraries that complain at every attempt (an exporter whose collector is away) are heard once in so long."""
THROTTLED = ("opentelemetry", "urllib3")

_DIED = ("ActorDiedError", "ActorUnavailableError", "RayActorError")
_LINE_START = '{"time":"'
_FIELDS = "starcoder_fields"
_FRAMES = 12
_CAUSES = 4
_MESSAGE_CHARS = 2000
# Errors quote what they choke on. File names in a traceback are quoted, too, but they are ours.
# An apostrophe within a word is no quote. What has no end is quoted to the end, which may have been cut off.
_QUOTED = re.compile(r"""File "[^"\n]*"|(?<!\w)(["'`])((?:\\.|(?!\1(?!\w)).)*)(?:\1|\Z)""", re.DOTALL)
_LONGEST_NAME = 8
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

logger = logging.getLogger("starcoder")


def event(name: str, message: str = "", *, level: int = logging.INFO, **fields: Any) -> None:
    """Write one line. fields: JSON values; those that are None are left out."""
    if logger.isEnabledFor(level):
        # Not `logger.log`, which looks for the caller's file and line in the stack.
        record = logging.LogRecord(logger.name, level, "", 0, message, None, None)
        setattr(record, _FIELDS, {"event": name, **fields})
        logger.handle(record)


class JsonFormatter(logging.Formatter):
    """A record as one line of compact JSON: `time` (UTC), `level`, `event`, the process's own fields, the event's.

    keep_text: write the messages of exceptions as they are; otherwise what they quote is left out, since it can be
    a user's text.
    """

    def __init__(self, process: Mapping[str, Any], keep_text: bool = False) -> None:
        super().__init__()
        self._process = {**process, "pid": os.getpid()}
        self._keep_text = keep_text
        self._second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, _FIELDS, None)
        line: dict[str, Any] = {"time": self._time(record.created), "level": record.levelname.lower()}
        if fields is None:
            line |= {"event": "log", "logger": record.name}
            message = record.getMessage()
            # What exports spans never has a text in hand, but the address of a collector that is away.
            harmless = self._keep_text or record.name.partition(".")[0] in THROTTLED
            line["message"] = message if harmless else redact(message)
        else:
            line |= {name: value for name, value in fields.items() if value is not None}
            if record.msg:
                line["message"] = record.msg
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe(record.exc_info[1], self._keep_text)
        line |= self._process
        return msgspec.json.encode(line, enc_hook=str).decode()

    def _time(self, seconds: float) -> str:
        """RFC 3339 in milliseconds; formatting the second anew for every line is most of a line's cost."""
        whole = int(seconds)
        if self._second[0] != whole:
            self._second = (whole, datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S"))
        return f"{self._second[1]}.{int(seconds % 1 * 1000):03d}Z"


class TextFormatter(logging.Formatter):
    """The same for people."""

    def __init__(self, json: JsonFormatter) -> None:
        super().__init__()
        self._json = json

    def format(self, record: logging.LogRecord) -> str:
        return as_text(msgspec.json.decode(self._json.format(record)))


class Throttle(logging.Filter):
    """Lets one record through in THROTTLE_S of each of the libraries that repeat themselves."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        library = record.name.partition(".")[0]
        if library not in THROTTLED:
            return True
        now = time.monotonic()
        if now - self._last.get(library, -THROTTLE_S) < THROTTLE_S:
            return False
        self._last[library] = now
        return True


class Futile(logging.Filter):
    """Keeps back what Ray's own tasks raise that asked a process which died: whoever waited for it has been told."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return record.name != "asyncio" or type(error).__name__ not in _DIED


class Queued(logging.Handler):
    """Has each line written by a thread, so that nobody waits for a log that stands still or is full."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink
        self._writer = LineWriter(self._notice)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.put(self._sink, self.format(record) + "\n")
        except Exception:  # the log must not stop what it tells of
            self.handleError(record)

    def _notice(self, count: int) -> str:
        record = logging.LogRecord(logger.name, logging.WARNING, "", 0, "the log could not be written", None, None)
        setattr(record, _FIELDS, {"event": "log.dropped", "lines": count})
        return self.format(record) + "\n"

    def flush(self) -> None:
        """Wait until all is written, a second at most; `logging` calls it at the end of the process, too."""
        self._writer.flush()

    def close(self) -> None:
        """Give up thread and file, once all is written. Waits for neither."""
        self._writer.close(self._sink)
        super().close()


def flush() -> None:
    """Before a process ends itself: what it has said so far gets a second to be written."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def configure(
    level: LogLevel,
    format: LogFormat,
    file: Path | None = None,
    keep_text: bool = False,
    stream: TextIO | None = None,
    **process: Any,
) -> None:
    """Make this process write its log as lines to `file`, or to standard output.

    Our own loggers write from `level` on, libraries from `warning` on. process: fields of every line, such as
    `process="engine"`. A file is appended to and opened again when it was moved away; it may be a pipe, such as
    the standard output of a container's first process. Raises OSError where it cannot be opened.
    """
    if file is None:
        sink = to_stream(stream or sys.stdout)
        readable = format == "text" or (format == "auto" and (stream or sys.stdout).isatty())
    else:
        sink, readable = to_file(file), format == "text"
    handler = Queued(sink)
    json = JsonFormatter(process, keep_text)
    handler.setFormatter(TextFormatter(json) if readable else json)
    handler.addFilter(Throttle())
    handler.addFilter(Futile())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(level.upper())


def parse(text: str) -> dict[str, Any] | None:
    """The fields of a line that `JsonFormatter` wrote; None for any other text."""
    if not text.startswith(_LINE_START):
        return None
    try:
        line = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def redact(message: str) -> str:
    """Without what it quotes, as far as that is longer than a name."""
    return _QUOTED.sub(_without, message)


def _without(found: re.Match[str]) -> str:
    quote, text = found[1], found[2]
    return found[0] if quote is None or len(text) <= _LONGEST_NAME else f"{quote}…{quote}"


def describe(error: BaseException, keep_text: bool = False) -> str:
    """An exception with its causes and their innermost frames."""
    parts = []
    for cause in _chain(error):
        message = str(cause)[:_MESSAGE_CHARS]
        frames = "".join(traceback.format_tb(cause.__traceback__, -_FRAMES))
        parts.append(f"{frames}{type(cause).__qualname__}: {message if keep_text else redact(message)}")
    return "\ncaused by\n".join(parts)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


# On a terminal

_HIDDEN = {"time", "level", "event", "message", "process", "pid", "replica", "exception"}
_REQUEST_SHOWN = {
    *("method", "path", "status", "outcome", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("ttft_ms", "queue_ms", "duration_ms", "request_id", "dialect", "stream", "error", "finish_reasons"),
    *("model", "engine", "completion_ids", "user_agent"),
}
_COLOURS = {"warning": "\033[33m", "error": "\033[31m", "debug": "\033[2m"}


def as_text(line: Mapping[str, Any], colour: bool = False) -> str:
    """A line for people: local time, what happened, and what is left of the fields."""
    clock = datetime.fromisoformat(str(line["time"])).astimezone().strftime("%H:%M:%S")
    if line.get("event") == "request":
        told, hidden = _request(line), _HIDDEN | _REQUEST_SHOWN
    else:
        name = line.get("logger") if line.get("event") == "log" else line.get("event")
        told, hidden = f"{name}: {line['message']}" if line.get("message") else str(name), _HIDDEN | {"logger"}
    rest = [
        f"{name}={_shown(name, value)}" for name, value in line.items() if name not in hidden and value != "default"
    ]
    level = str(line.get("level", "info"))
    text = " ".join([clock, *([] if level == "info" else [level.upper()]), told, *rest])
    # What a client sent must not move the cursor or begin a line of its own.
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    if "exception" in line:
        text += "\n  " + str(line["exception"]).replace("\n", "\n  ")
    return f"{_COLOURS[level]}{text}\033[0m" if colour and level in _COLOURS else text


def _shown(name: str, value: Any) -> Any:
    if not name.endswith("_bytes") or not isinstance(value, int):
        return value
    return f"{value / 2**30:.1f}GiB" if value >= 2**30 else f"{value / 2**20:.1f}MiB"


def _request(line: Mapping[str, Any]) -> str:
    parts = [f"{line.get('method')} {line.get('path')} {line.get('status') or '-'} {line.get('outcome')}"]
    if "prompt_tokens" in line:
        cached = f" ({line['cached_tokens']} cached)" if line.get("cached_tokens") else ""
        parts.append(f"{line['prompt_tokens']}{cached} + {line.get('completion_tokens', '?')} tokens")
    if "ttft_ms" in line:
        parts.append(f"first after {line['ttft_ms']:.0f} ms")
    parts.append(f"{line.get('duration_ms', 0):.0f} ms")
    if error := line.get("error"):
        parts.append(str(error.get("message") or " ".join(str(v) for v in error.values())))
    return ", ".join(parts) + f" [{line.get('request_id')}]"
