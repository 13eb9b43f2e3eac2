"""What Prometheus is told to scrape: every exporter that lives, and no other."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monitoring.targets import Announcement

ROOT = Path(__file__).parents[2]
ADDRESSES = {"starcoder": "127.0.0.1:1", "ray": "127.0.0.1:2"}


def announced(directory: Path) -> set[str]:
    return {file.stem for file in directory.glob("*.json")}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """start(node) announces it from another process, which then waits to be ended."""
    script = (
        "import sys; from pathlib import Path; from monitoring.targets import Announcement; "
        f"made = Announcement(Path(sys.argv[1]), sys.argv[2], {ADDRESSES}); print(flush=True); sys.stdin.read()"
    )
    started = []

    def start_one(node: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, str(tmp_path), node]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def test_prometheus_reads_the_jobs_of_a_node(tmp_path: Path) -> None:
    made = Announcement(tmp_path, "node-a", ADDRESSES)
    assert json.loads((tmp_path / "node-a.json").read_text()) == [
        {"targets": [address], "labels": {"job": job, "node": "node-a"}} for job, address in ADDRESSES.items()
    ]
    made.close()
    assert announced(tmp_path) == set()


def test_what_a_killed_exporter_announced_goes_when_another_comes(
    tmp_path: Path, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    killed, _living = start("node-killed"), start("node-living")
    killed.send_signal(signal.SIGKILL)
    killed.wait(120)
    (tmp_path / "mine.json").write_text(json.dumps([{"targets": ["127.0.0.1:3"], "labels": {"job": "mine"}}]))
    (tmp_path / "broken.json").write_text("[")
    assert announced(tmp_path) == {"node-killed", "node-living", "mine", "broken"}
    Announcement(tmp_path, "node-new", ADDRESSES).close()
    assert announced(tmp_path) == {"node-living", "mine", "broken"}


def test_who_is_followed_by_another_of_its_node_leaves_the_others_file(tmp_path: Path) -> None:
    first = Announcement(tmp_path, "node-a", ADDRESSES)
    second = Announcement(tmp_path, "node-a", ADDRESSES)
    first.close()
    assert announced(tmp_path) == {"node-a"}
    second.close()
    assert announced(tmp_path) == set()


def test_closing_where_the_directory_is_gone_harms_nobody(tmp_path: Path) -> None:
    made = Announcement(tmp_path / "targets", "node-a", ADDRESSES)
    (tmp_path / "targets" / "node-a.json").unlink()
    made.close()
