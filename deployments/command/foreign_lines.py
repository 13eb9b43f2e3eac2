"""What Ray, its processes and libraries print, read as messages: which lines are one, how bad it is, what it says.

They have many formats: Ray's Python (`2026-01-31 10:00:00,123\\tWARNING worker.py:12 -- ...`), Ray's C++
(`[2026-01-31 10:00:00,123 E 12 34] (raylet) node.cc:5: ...`), Serve's (`WARNING 2026-01-31 ...`, or JSON), Python's
warnings and tracebacks, progress bars.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

MOST_CHARACTERS = 16_384
"""Of one message: more is cut."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")
_TRACEBACK = "Traceback (most recent call last)"
_FRAME = '  File "'
_CHAINED = ("The above exception was", "During handling of the above")

_LEVELS = {
    "D": "debug",
    "I": "info",
    "W": "warning",
    "E": "error",
    "C": "critical",
    "F": "critical",
    **{name.upper(): name for name in ("debug", "info", "warning", "error", "critical")},
}
_CPP = re.compile(r"^(?:\([^)]{1,80}\) )?\[\d{4}-[^\]]{0,60} ([DIWECF]) \d+ \d+\]")
_PYTHON = re.compile(r"^(?:\([^)]{1,80}\) )?(?:\d{4}-\S{1,12}[ T]\S{1,20}\s+)?(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_DIED = re.compile(r"^\(\w{1,40}\) (?:A worker|The node|\d+ Workers?)\b.{0,300}\b(?:died|killed|dead)\b")
_WARNING = re.compile(r"^\S{1,300}:\d+: \w*Warning: ")


class Message(NamedTuple):
    """level: one of the log's."""

    text: str
    level: str


class _Structured(msgspec.Struct):
    """A line of Serve's own JSON."""

    levelname: str
    message: str
    exc_text: str | None = None


_structured = msgspec.json.Decoder(_Structured)


def messages(lines: Iterable[str]) -> list[Message]:
    """What one process has printed, in lines without their ends. A traceback is one message, with what announces it."""
    found: list[list[str]] = []
    traced = False  # within a traceback, whose last line is the first that is not indented
    for line in map(shown, lines):
        begins, indented, empty = _TRACEBACK in line, line[:1].isspace(), not line.strip()
        if empty and not traced:
            continue
        if found and (traced or indented or _is_chained(line, begins, found[-1])):
            found[-1].append(line)
        else:
            found.append([line])
        traced = begins or line.startswith(_FRAME) or (traced and (indented or empty))
    return [_message("\n".join(part).rstrip()[:MOST_CHARACTERS]) for part in found]


def _is_chained(line: str, begins: bool, before: list[str]) -> bool:
    """Whether a line says that another traceback comes, or begins one that `before` announces."""
    if begins and len(before) == 1:
        return before[0].startswith("Exception ") or _level(before[0]) != "info"
    return line.startswith(_CHAINED) or (begins and before[-1].startswith(_CHAINED))


def shown(line: str) -> str:
    """As a terminal shows it in the end: without colours, and after a carriage return only what came behind it."""
    parts = [part for part in _ESCAPES.sub("", line).split("\r") if part.strip()]
    return parts[-1] if parts else ""


def _message(text: str) -> Message:
    if text.startswith("{"):
        try:
            line = _structured.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return Message(text, "info")
        told = line.message if line.exc_text is None else f"{line.message}\n{line.exc_text}"
        return Message(told, _LEVELS.get(line.levelname, "info"))
    return Message(text, _level(text))


def _level(text: str) -> str:
    if (named := _CPP.match(text) or _PYTHON.match(text)) is not None:
        return _LEVELS[named[1]]
    if _TRACEBACK in text or text.startswith(("Fatal Python error", "Segmentation fault")):
        return "error"
    return "warning" if _WARNING.match(text) or _DIED.match(text) else "info"
