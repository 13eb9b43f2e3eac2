"""What was logged, as the fields of each line."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from monitoring import events, logs
from monitoring.logs import LogLevel


class LogLines:
    """Lines of this process's log, as JSON and as declared. text: as they were written."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        logs.flush()
        return self.stream.getvalue()

    def all(self, event: str | None = None) -> list[dict[str, Any]]:
        lines = [logs.parse(line) for line in self.text.splitlines()]
        assert None not in lines, self.text
        faults = [fault for line in lines if line and line["event"] in events.BY_NAME for fault in events.wrong(line)]
        assert faults == []
        return [line for line in lines if line and event in (None, line["event"])]

    def requests(self) -> list[dict[str, Any]]:
        return self.all("request")


@contextmanager
def captured(level: LogLevel = "info", keep_text: bool = False) -> Iterator[LogLines]:
    """Configure this process's log for a block, and undo it."""
    root, own = logging.getLogger(), [logging.getLogger(name) for name in logs.OWN_LOGGERS]
    before = (root.level, root.handlers[:], [logger.level for logger in own])
    for handler in root.handlers[:]:
        root.removeHandler(handler)  # `configure` would close it
    lines = LogLines()
    logs.configure(level, "json", keep_text=keep_text, stream=lines.stream, process="test")
    try:
        yield lines
    finally:
        logs.flush()
        for handler in root.handlers[:]:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(before[0])
        for handler in before[1]:
            root.addHandler(handler)
        for logger, number in zip(own, before[2], strict=True):
            logger.setLevel(number)
