"""What a process and its children print comes in lines, and goes nowhere else."""

from __future__ import annotations

import json
import subprocess
import sys

from monitoring import events, logs

PRINTS = """
import os, subprocess, sys, warnings
from deployments.command.console import Console

console = Console("json")
with console.alone():
    print("from Python")
    warnings.warn("slow", stacklevel=1)
    os.write(2, b"[2026-11-27 12:00:00,1 E 1 1] (raylet) from.cc:1: C++\\n")
    os.write(1, b"10%\\r20%\\r")
    os.write(1, b"30%\\n")
    os.write(1, b'{"time":"2026-11-27T10:46:31.849Z","level":"error","event":"engine.dead","message":"of ours"}\\n')
    sys.stderr.flush()
    subprocess.run(["sh", "-c", "echo from a child; echo and its errors >&2"])
    try:
        open("/no/such/file")
    except OSError:
        import traceback
        traceback.print_exc()
    console.say("Ready.", "server.ready")
    os.write(1, b"without an end")
console.flush()
"""


def test_every_line_of_a_server_whose_log_is_json_is_an_object_as_declared() -> None:
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [fault for line in lines for fault in events.wrong(line)] == []
    said = {line["message"]: (line["event"], line["level"]) for line in lines}
    assert said["from Python"] == said["30%"] == said["from a child"] == said["without an end"] == ("output", "info")
    assert said["of ours"] == ("engine.dead", "error")
    assert said["Ready."] == ("server.ready", "info")
    assert said["[2026-11-27 12:00:00,1 E 1 1] (raylet) from.cc:1: C++"] == ("output", "error")
    (warning,) = [message for message in said if "UserWarning: slow" in message]
    assert said[warning] == ("output", "warning")
    (traceback,) = [message for message in said if message.startswith("Traceback")]
    assert "FileNotFoundError" in traceback
    assert "/no/such/file" not in traceback, "what an exception quotes may be a text"
    assert logs.parse(done.stdout.splitlines()[0]) is not None


def test_what_comes_after_the_block_goes_where_it_went() -> None:
    code = PRINTS + "\nprint('after')\nprint('and here', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "after"
    assert done.stderr == "and here\n"
