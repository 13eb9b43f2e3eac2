"""What Ray and libraries print, as they print it: how many messages it is, and how bad."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.command.foreign_lines import MOST_CHARACTERS, messages

TRACEBACK = """\
Traceback (most recent call last):
  File "/opt/starcoder/lib/python3.11/site-packages/ray/_private/worker.py", line 2822, in get_objects
    raise value.as_instanceof_cause()
ray.exceptions.RayTaskError(ValueError): \x1b[36mray::ServeReplica:starcoder:engine.health()\x1b[39m (pid=12)
  File "/x.py", line 1, in f
ValueError: no
"""

CHAINED = """\
ERROR 2026-11-27 12:00:00,123 controller 88 -- Failed to update the deployments.
Traceback (most recent call last):
  File "/a.py", line 10, in run
    step()
KeyError: 1

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/b.py", line 20, in run
    again()
    ^^^^^^^
RuntimeError: and again
"""

SAMPLES = [
    ("[2026-11-27 12:00:00,123 E 4711 4711] (raylet) node_manager.cc:3071: 1 Workers killed due to memory", "error"),
    ("(raylet) [2026-11-27 12:00:00,123 W 4711 4750] metric_exporter.cc:105: [1] Export metrics failed", "warning"),
    ("[2026-11-27 12:00:00,123 C 4711 4711] (gcs_server) gcs_server.cc:99:  Check failed: ok", "critical"),
    ("\x1b[33m(raylet)\x1b[0m [2026-11-27 12:00:00,123 I 4711 4711] main.cc:1: started", "info"),
    (
        "2026-11-27 12:00:00,123\tWARNING worker.py:2052 -- A worker died while executing a task",
        "warning",
    ),
    ("2026-11-27 12:00:00,123\tERROR services.py:1354 -- Failed to start the dashboard", "error"),
    ("INFO 2026-11-27 12:00:00,123 proxy 127.0.0.1 -- Proxy starting on node abc.", "info"),
    ("WARNING:  Invalid HTTP request received.", "warning"),
    ("/opt/lib/torch/cuda/__init__.py:61: FutureWarning: The pynvml package is deprecated.", "warning"),
    ("(raylet) A worker died or was killed while executing a task by an unexpected system error.", "warning"),
    ("Fatal Python error: Aborted", "error"),
    ("a library says something about an ERROR", "info"),
    ("{not json", "info"),
]


@pytest.mark.parametrize(("line", "level"), SAMPLES, ids=[line[:40] for line, _ in SAMPLES])
def test_a_line_has_the_level_that_its_text_says(line: str, level: str) -> None:
    ((text, found),) = messages([line])
    assert found == level
    assert "\x1b" not in text


@pytest.mark.parametrize(("line", "together"), [("Exception in thread Thread-1:", True), ("a print", False)])
def test_what_announces_a_traceback_belongs_to_it(line: str, together: bool) -> None:
    assert len(messages([line, *TRACEBACK.splitlines()])) == (1 if together else 2)


def test_a_line_of_serves_json_is_taken_apart() -> None:
    line = '{"levelname": "ERROR", "asctime": "2026-11-27", "message": "it failed", "exc_text": "Traceback", "x": 1}'
    assert messages([line]) == [("it failed\nTraceback", "error")]


@pytest.mark.parametrize("text", [TRACEBACK, CHAINED])
def test_a_traceback_is_one_message(text: str) -> None:
    found = messages([*text.splitlines(), "and then something else"])
    assert [message.level for message in found] == ["error", "info"]
    assert found[0].text.splitlines()[-1] == text.splitlines()[-1]
    assert "\x1b" not in found[0].text


def test_a_warning_of_python_keeps_the_line_that_it_is_about() -> None:
    lines = ["/a/b.py:3: UserWarning: it is slow", "  warnings.warn('it is slow')", "/a/b.py:9: UserWarning: again"]
    assert messages(lines) == [("\n".join(lines[:2]), "warning"), (lines[2], "warning")]


def test_of_a_progress_bar_is_left_what_it_said_last() -> None:
    bar = "".join(f"\rLoading checkpoint shards: {share:3}%|{'█' * (share // 10):10}|" for share in range(0, 101, 10))
    assert messages([bar + "\r", "windows\r", "\r\r", ""]) == [
        (bar.rpartition("\r")[2], "info"),
        ("windows", "info"),
    ]


@given(st.lists(st.sampled_from([*TRACEBACK.splitlines(), *CHAINED.splitlines(), "x", "", "\r", "  x"])))
def test_nothing_is_lost_whatever_the_order(lines: list[str]) -> None:
    said = "\n".join(message.text for message in messages(lines))
    plain = [messages([line])[0].text for line in lines if line.strip()]
    assert [line.strip() for line in said.splitlines() if line.strip()] == [line.strip() for line in plain]


def test_a_message_has_an_end() -> None:
    ((text, _),) = messages(["x" * (2 * MOST_CHARACTERS)])
    assert len(text) == MOST_CHARACTERS


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        (["", "a", "", " ", "b"], ["a", "b"]),
        (["a", "  of it", "", "  no more"], ["a\n  of it\n  no more"]),
        (["  first", "  and its second"], ["  first\n  and its second"]),
        (["one", "Traceback (most recent call last):"], ["one", "Traceback (most recent call last):"]),
        (["a", "b", "Exception in thread x", "Traceback (most recent call last):", "  File"], ["a", "b", 3]),
        (["Exception x", "  of it", "Traceback (most recent call last):"], ["Exception x\n  of it", 1]),
        (["Traceback (most recent call last):", "", "  File", "KeyError: 1", "", "next"], [4, "next"]),
        (['  File "a.py"', "KeyError: 1", "next"], [2, "next"]),
        (
            ["Traceback (most recent call last):", "KeyError: 1", "The above exception was the cause", "KeyError: 2"],
            [3, "KeyError: 2"],
        ),
    ],
)
def test_what_belongs_together_is_told_together(lines: list[str], texts: list[str | int]) -> None:
    """A number: of the lines of a message."""
    found = [message.text for message in messages(lines)]
    counted = [
        len(text.splitlines()) if isinstance(known, int) else text for text, known in zip(found, texts, strict=True)
    ]
    assert counted == texts


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
@pytest.mark.parametrize("form", ["{level} x", "2026-11-27 12:00:00,1\t{level} x.py:1 -- y", "(raylet) {level}: x"])
def test_a_level_that_is_named_is_the_messages(level: str, form: str) -> None:
    assert messages([form.format(level=level)])[0].level == level.lower()
    assert messages([form.format(level=f"{level}S")])[0].level == "info"


@pytest.mark.parametrize(
    ("letter", "level"), [*zip("DIWECF", ("debug", "info", "warning", "error", *["critical"] * 2), strict=True)]
)
def test_a_letter_of_rays_c_code_is_a_level(letter: str, level: str) -> None:
    assert messages([f"[2026-11-27 12:00:00,1 {letter} 1 1] (raylet) x.cc:1: y"])[0].level == level


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"levelname": "WARNING", "message": "m"}', ("m", "warning")),
        ('{"levelname": "NOTSET", "message": "m"}', ("m", "info")),
        ('{"levelname": "ERROR", "message": "m", "exc_text": null}', ("m", "error")),
        ('{"levelname": "ERROR"}', ('{"levelname": "ERROR"}', "info")),
        ("{" * 100_000, ("{" * MOST_CHARACTERS, "info")),
        ("Segmentation fault (core dumped)", ("Segmentation fault (core dumped)", "error")),
        ("(raylet) The node with id 1 is dead", ("(raylet) The node with id 1 is dead", "warning")),
        ("(raylet) 3 Workers were killed", ("(raylet) 3 Workers were killed", "warning")),
        ("(raylet) A worker lives", ("(raylet) A worker lives", "info")),
    ],
)
def test_one_line_is_one_message(line: str, message: tuple[str, str]) -> None:
    assert messages([line]) == [message]
