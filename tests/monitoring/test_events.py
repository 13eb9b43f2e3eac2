"""The log is as it is declared: every event that the code writes, and what the documents say of them."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from monitoring.events import BY_NAME, EVENTS, FIELDS, OF_EVERY_LINE, with_events, wrong

ROOT = Path(__file__).parents[2]
OBSERVABILITY = ROOT / "docs" / "observability.md"
_EVENT = re.compile(r"[a-z_]+(\.[a-z_]+)?")
_WRITERS = {"event", "say", "FewLines", "_write_json", "_json"}
"""Whose first or second argument is an event's name."""


@cache
def sources() -> dict[Path, str]:
    files = [path for room in ("deployments", "model", "monitoring") for path in (ROOT / room).rglob("*.py")]
    return {path: path.read_text() for path in files if path.name != "events.py"}


@cache
def written() -> list[tuple[str, ast.Call]]:
    """Each call that writes a line, with the event that it names."""
    found = []
    for text in sources().values():
        if not re.search(r"logs\.event\(|FewLines\(|\.say\(|_json\(", text):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and _name(node.func) in _WRITERS:
                given = [each.value for each in node.args[:2] if isinstance(each, ast.Constant)]
                names = [value for value in given if isinstance(value, str) and _EVENT.fullmatch(value)]
                found += [(name, node) for name in names]
    return found


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_every_event_is_declared_and_written() -> None:
    names = {name for name, _ in written()}
    assert names - set(BY_NAME) == set()
    assert [name for name in BY_NAME if not any(f'"{name}"' in text for text in sources().values())] == []
    assert len(BY_NAME) == len(EVENTS)


def test_every_field_is_declared() -> None:
    said = {word.arg for name, call in written() for word in call.keywords if word.arg and name in BY_NAME}
    assert said - set(FIELDS) - {"name", "clock"} == set()


def test_every_field_of_an_event_is_declared_and_some_event_has_it() -> None:
    of_events = {name for event in EVENTS for name in (*event.has, *event.may)}
    assert of_events | set(OF_EVERY_LINE) == set(FIELDS)
    assert of_events & set(OF_EVERY_LINE) == {"rank"}, "one that died; its own lines have it, too"
    assert [event.name for event in EVENTS if set(event.has) & set(event.may)] == []


def test_the_document_lists_them() -> None:
    text = OBSERVABILITY.read_text()
    assert with_events(text) == text, "make boards"
    (starting,) = re.findall(r"^\| `engine.starting` .*$", text, re.MULTILINE)
    assert starting.endswith(" | `model`, `tensor_parallel_size`; in some `replaces` |")
    (stopped,) = re.findall(r"^\| `engine.stopped` .*$", text, re.MULTILINE)
    assert stopped == "| `engine.stopped` | info | it has |  |"
    fields = set(re.findall(r"`(\w+)`", text.partition("### A request")[2].partition("### Events")[0]))
    assert {name for name in fields if name in FIELDS} >= {"request_id", "outcome", "ttft_ms", "trace_id", "error"}
    for line in re.findall(r'^\{"time".*\}$', text, re.MULTILINE):
        assert wrong(json.loads(line)) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ({"event": "nothing.such", "level": "info"}, "there is no event"),
        ({"event": "engine.dead", "level": "info", "message": "m"}, "engine.dead at level 'info'"),
        ({"event": "engine.stopping", "level": "info", "open_requests": "0"}, "open_requests is '0'"),
        ({"event": "engine.stopping", "level": "info", "open_requests": True}, "open_requests is True"),
        ({"event": "engine.stopping", "level": "info"}, "open_requests is missing"),
        ({"event": "engine.dead", "level": "error", "message": "m", "colour": "red"}, "colour is 'red'"),
        ({"event": "engine.dead", "level": "error", "message": "m", "rows": 0}, "rows is 0"),
    ],
)
def test_what_is_wrong_with_a_line(line: dict[str, Any], fault: str) -> None:
    (found,) = wrong(line)
    assert fault in found
