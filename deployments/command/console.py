"""What `starcoder serve` prints: its own progress, and the log of Ray's processes, in one format.

The processes write JSON lines to their standard output, which Ray brings here. On a terminal they are shown as text;
otherwise they go to standard output as they are, and so does everything else, wrapped in the same form.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from monitoring import logs
from monitoring.line_writer import LineWriter, to_stream
from monitoring.logs import LogFormat

_CLEAR_LINE = "\r\033[K"
_OURS = '{"time":"'


class Console:
    """format: `auto` is text on a terminal. out, progress: standard output and error if not given.

    show_foreign: pass on what is no line of our log, such as a library's print in a worker.
    """

    def __init__(self, format: LogFormat = "auto", out: TextIO | None = None, progress: TextIO | None = None) -> None:
        # Where this command talks to people, whoever else is being kept from it.
        self._out = out or sys.__stdout__ or sys.stdout
        self._progress = progress or sys.__stderr__ or sys.stderr
        self._terminal = self._out.isatty()
        self._colour = self._terminal and not os.environ.get("NO_COLOR")  # https://no-color.org
        self._writer = LineWriter(lambda count: f"({count} lines of the log could not be written)\n")
        self._to_out, self._to_progress = to_stream(self._out), to_stream(self._progress)
        self.as_json = format == "json" or (format == "auto" and not self._terminal)
        self.show_foreign = False
        self._begun: dict[tuple[Any, Any], str] = {}
        """By process, a line of ours of which only the beginning has come."""

    def say(self, text: str, event: str = "server.progress", **fields: Any) -> None:
        """Progress of the command itself."""
        if self.as_json:
            self._write_json(event, text.strip(), process="serve", **fields)
        else:
            self._writer.put(self._to_progress, text + "\n")

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """A part of the start: a line with how long it took; on a terminal rewritten in place meanwhile."""
        started_at = time.monotonic()
        in_place = not self.as_json and self._progress.isatty()
        last = ""

        def say(text: str) -> None:
            nonlocal last
            if text == last:
                return
            last = text
            if in_place:
                self._writer.put(self._to_progress, f"{_CLEAR_LINE}  {text}")
            else:
                self.say(f"  {text}")

        if in_place:
            say(f"{name} ...")
        yield say
        seconds = time.monotonic() - started_at
        self.say(f"{_CLEAR_LINE if in_place else ''}  {name}: {seconds:.1f} s", seconds=round(seconds, 2))

    def listen_to_workers(self) -> None:
        """Take over from Ray the printing of what its processes print."""
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

        for name, show in list(dispatcher.handlers):
            if name == "ray_print_logs":
                dispatcher.remove_handler(name)
                dispatcher.add_handler(name, lambda data, show=show: self.worker_printed(data, show))

    def worker_printed(self, data: dict[str, Any], show: Callable[[dict[str, Any]], object]) -> None:
        """data: Ray's batch of lines of one process. show: Ray's own printing, for lines that are not ours."""
        foreign = []
        for text in self._whole(data):
            line = logs.parse(text)
            if line is None:
                foreign.append(text)
            elif self.as_json:
                self._write(text)
            else:
                clear = _CLEAR_LINE if self._terminal else ""
                self._write(clear + logs.as_text(line, colour=self._colour))
        name = str(data.get("actor_name") or data.get("task_name") or "")
        # Serve's controller prints the traceback of every start that fails. What went wrong is said in one line by
        # `StartError`, and by the replica itself.
        if not foreign or not self.show_foreign or name.startswith("ServeController"):
            return
        if self.as_json:
            if data.get("pid") == "autoscaler":  # a status page every few seconds, which `show` would keep back, too
                return
            for text in filter(str.strip, foreign):
                self._write_json("output", text, process=name or "ray", pid=data.get("pid"))
        else:
            show({**data, "lines": foreign})

    def _whole(self, data: dict[str, Any]) -> list[str]:
        """Its lines. Ray reads files while they are written: a line of ours may come in two pieces, in two batches."""
        process, lines = (data.get("ip"), data.get("pid")), [*data["lines"]]
        if (begun := self._begun.pop(process, None)) is not None:
            joined = begun + lines[0] if lines else begun
            lines[:1] = [joined] if logs.parse(joined) is not None else [begun, *lines[:1]]
        if lines and lines[-1] and lines[-1].startswith(_OURS[: len(lines[-1])]) and logs.parse(lines[-1]) is None:
            self._begun[process] = lines.pop()
        return lines

    def _write_json(self, event: str, message: str, **fields: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._write(
            msgspec.json.encode({"time": now, "level": "info", "event": event, "message": message, **fields}).decode()
        )

    def _write(self, line: str) -> None:
        self._writer.put(self._to_out, line + "\n")

    def flush(self) -> None:
        """Wait until all is written, a second at most: whoever reads may stand still, or have gone."""
        self._writer.flush()
