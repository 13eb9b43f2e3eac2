"""What `starcoder serve` prints: its own progress, and the log of Ray's processes, in one format.

The processes write JSON lines to their standard output, which Ray brings here. On a terminal they are shown as text;
otherwise they go to standard output as they are, and so does everything else that this process, Ray or a library
prints, wrapped in the same form.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from deployments.command.capture import captured
from deployments.command.foreign_lines import messages
from monitoring import logs
from monitoring.line_writer import LineWriter, to_stream
from monitoring.logs import LogFormat

_CLEAR_LINE = "\r\033[K"
_OURS = '{"time":"'


class Console:
    """format: `auto` is text on a terminal. out, progress: standard output and error if not given.

    keep_text: pass on what others print as it is; otherwise what it quotes is left out, where it is written as JSON.
    show_foreign: pass on what is no line of our log, such as a library's print in a worker.
    """

    def __init__(
        self,
        format: LogFormat = "auto",
        out: TextIO | None = None,
        progress: TextIO | None = None,
        keep_text: bool = False,
    ) -> None:
        # Where this command talks to people, whoever else is being kept from it.
        self._out = out or sys.__stdout__ or sys.stdout
        self._progress = progress or sys.__stderr__ or sys.stderr
        self._terminal = self._out.isatty()
        self._colour = self._terminal and not os.environ.get("NO_COLOR")  # https://no-color.org
        self._writer = LineWriter(self._dropped)
        self._keep_text = keep_text
        self._to_out, self._to_progress = to_stream(self._out), to_stream(self._progress)
        self.as_json = format == "json" or (format == "auto" and not self._terminal)
        self.show_foreign = False
        self._begun: dict[tuple[Any, Any], str] = {}
        """By process, a line of ours of which only the beginning has come."""

    def say(self, text: str, event: str = "server.progress", level: str = "info", **fields: Any) -> None:
        """Progress of the command itself."""
        if self.as_json:
            self._write_json(event, text.strip(), level, process="serve", pid=os.getpid(), **fields)
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

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """For the block, whatever is printed here, by Ray's own code and its servers too, is a line of the log.

        As JSON, that is; as text, everybody prints for themselves.
        """
        if not self.as_json:
            yield
            return
        with captured(lambda lines: self._pass_on(lines, process="ray")):
            yield

    def listen_to_workers(self) -> None:
        """Take over from Ray the printing of what its processes print."""
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

        for name, show in list(dispatcher.handlers):
            if name == "ray_print_logs":
                dispatcher.remove_handler(name)
                dispatcher.add_handler(name, lambda data, show=show: self.worker_printed(data, show))

    def worker_printed(self, data: dict[str, Any], show: Callable[[dict[str, Any]], object]) -> None:
        """data: Ray's batch of lines of one process. show: Ray's own printing, for lines that are not ours."""
        lines = self._whole(data)
        # Serve's controller prints the traceback of every start that fails. What went wrong is said in one line by
        # `StartError`, and by the replica itself.
        name = str(data.get("actor_name") or data.get("task_name") or "")
        wanted = self.show_foreign and not name.startswith("ServeController")
        if self.as_json:
            pid = data.get("pid")
            # The autoscaler's is a status page every few seconds, which `show` would keep back, too.
            self._pass_on(lines, wanted and pid != "autoscaler", **_whose(name, pid))
            return
        foreign = []
        for text in lines:
            line = logs.parse(text)
            if line is None:
                foreign.append(text)
            else:
                clear = _CLEAR_LINE if self._terminal else ""
                self._write(clear + logs.as_text(line, colour=self._colour))
        if foreign and wanted:
            show({**data, "lines": foreign})

    def _pass_on(self, lines: list[str], foreign: bool = True, **whose: Any) -> None:
        """As JSON. Ours are that already; foreign: others are wanted, too."""
        for ours, part in itertools.groupby(lines, key=lambda text: logs.parse(text) is not None):
            if ours:
                for text in part:
                    self._write(text)
            elif foreign:
                for text, level in messages(part):
                    self._write_json("output", text if self._keep_text else logs.redact(text), level, **whose)

    def _whole(self, data: dict[str, Any]) -> list[str]:
        """Its lines. Ray reads files while they are written: a line of ours may come in two pieces, in two batches."""
        process, lines = (data.get("ip"), data.get("pid")), [*data["lines"]]
        if (begun := self._begun.pop(process, None)) is not None:
            joined = begun + lines[0] if lines else begun
            lines[:1] = [joined] if logs.parse(joined) is not None else [begun, *lines[:1]]
        if lines and lines[-1] and lines[-1].startswith(_OURS[: len(lines[-1])]) and logs.parse(lines[-1]) is None:
            self._begun[process] = lines.pop()
        return lines

    def _dropped(self, count: int) -> str:
        text = "the log could not be written"
        if self.as_json:
            return _json("log.dropped", text, "warning", lines=count, process="serve", pid=os.getpid()) + "\n"
        return f"({text}: {count} lines)\n"

    def _write_json(self, event: str, message: str, level: str = "info", **fields: Any) -> None:
        self._write(_json(event, message, level, **fields))

    def _write(self, line: str) -> None:
        self._writer.put(self._to_out, line + "\n")

    def flush(self) -> None:
        """Wait until all is written, a second at most: whoever reads may stand still, or have gone."""
        self._writer.flush()


def _json(event: str, message: str, level: str, **fields: Any) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {name: value for name, value in fields.items() if value is not None}
    return msgspec.json.encode({"time": now, "level": level, "event": event, "message": message, **told}).decode()


def _whose(name: str, pid: object) -> dict[str, Any]:
    """Of Ray's workers it knows the number, mostly as a text; its servers have a name there."""
    number = str(pid)
    return {"process": name or "ray", "pid": int(number)} if number.isdecimal() else {"process": number}
