"""One exporter a node, through the deaths of everybody who could hold it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.command.processes import descendants
from monitoring import exporter, keeper
from monitoring.shared_directory import SharedDirectory
from tests.support.descriptors import many_descriptors
from tests.support.processes import is_gone, kill
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from pathlib import Path
from monitoring.keeper import keep_exporter
from monitoring.process import init
from monitoring.replica import ReplicaMetrics
node = Path(sys.argv[1])
init(node)
metrics = ReplicaMetrics("pico")
metrics.of().first_token(0.1)
metrics.engine_ready(1.0, [], [])
keep_exporter(node, "127.0.0.1", 0, node.parent / "targets", others={"other": "127.0.0.1:1"}, linger_s=0.5)
print("ready", flush=True)
sys.stdin.read()
"""


class Node:
    """Processes that record in one directory, and the exporter they keep."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.target = directory.parent / "targets" / f"{directory.name}.json"
        self.processes: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(self.directory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def exporters(self) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = entry.read_bytes().split(b"\0")
            except OSError:
                continue
            if line[0] != b"sh" and b"monitoring.exporter" in line and os.fsencode(self.directory) in line:
                found.append(int(entry.parent.name))
        return found

    def scrape(self) -> dict[str, float] | None:
        try:
            (address,) = json.loads(self.target.read_text())[0]["targets"]
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=120) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return None
        return {name: float(value) for name, _, value in (li.rpartition(" ") for li in lines if li[0] != "#")}

    def value(self, start: str) -> float | None:
        series = self.scrape()
        return None if series is None else sum(value for name, value in series.items() if name.startswith(start))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node-a")
    yield node
    for process in node.processes:
        process.kill()
        process.communicate()
    wait_until(lambda: not node.exporters(), "the exporter stays")  # nobody records any more


def children(pid: int) -> list[int]:
    """Not theirs."""
    parents = {
        child: Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1] for child in descendants(pid)
    }
    return [child for child, parent in parents.items() if int(parent) == pid]


FIRST = 'starcoder_time_to_first_token_seconds_count{dialect="other"'


def test_the_exporter_survives_whoever_started_it_and_is_replaced_when_it_dies(node: Node) -> None:
    starter, _other = node.start(), node.start()
    wait_until(lambda: node.value(FIRST) == 2, "not exported")
    (exporter,) = node.exporters()
    announced = {group["labels"]["job"]: group["targets"] for group in json.loads(node.target.read_text())}
    assert announced.keys() == {"starcoder", "other"}
    assert announced["other"] == ["127.0.0.1:1"]

    for child in children(starter.pid):
        kill(child, signal.SIGKILL)  # as Ray does to a worker that ends in order
    starter.kill()
    starter.wait(120)
    assert node.value(FIRST) == 2, "a count went away"
    wait_until(lambda: node.value("starcoder_engines_up") == 1, "the dead one's gauge stays")
    assert node.exporters() == [exporter]

    kill(exporter, signal.SIGKILL)
    wait_until(lambda: is_gone(exporter), "not killed")
    wait_until(lambda: node.value(FIRST) == 2, "nobody took over")
    assert len(node.exporters()) == 1


def test_it_ends_some_time_after_the_last_process(node: Node) -> None:
    process = node.start()
    wait_until(lambda: node.value(FIRST) == 1, "not exported")
    process.kill()
    process.wait(120)
    wait_until(lambda: not node.exporters(), "it stays")
    assert not node.target.exists(), "Prometheus would go on asking"


def test_it_ends_with_its_node_however_long_it_would_linger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would keep the port from the next one."""
    monkeypatch.setattr(exporter, "CHECK_S", 0.01)
    node = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with many_descriptors():
        ended = exporter.end_of(node.pid)
    waiting = threading.Thread(
        target=exporter.wait_for_end, args=(threading.Event(), SharedDirectory(tmp_path), 1e6, ended), daemon=True
    )
    waiting.start()
    assert not ended()
    assert waiting.is_alive()
    node.kill()
    node.communicate()
    waiting.join(120)
    assert not waiting.is_alive()
    assert exporter.end_of(node.pid)()
    targets = tmp_path / "targets"
    arguments = ["--directory", str(tmp_path), "--port", "0", "--targets", str(targets), "--node-pid", str(node.pid)]
    exporter.main(arguments)
    assert not targets.exists()


def test_it_ends_when_the_directory_is_removed(tmp_path: Path) -> None:
    directory = tmp_path / "node"
    command = [sys.executable, "-m", "monitoring.exporter", "--directory", str(directory), "--port", "0"]
    process = subprocess.Popen([*command, "--linger-s", "100"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("metrics of this node")
        shutil.rmtree(directory)
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.communicate()


class Kept:
    """Exporters that end with these codes after so many seconds; then the directory is removed."""

    def __init__(self, directory: Path, ends: list[tuple[int, float]]) -> None:
        self.slept: list[float] = []
        self.started: list[list[str]] = []
        self._directory = directory
        self._ends = ends
        self._now = 100.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def start(self, command: list[str], lock: int) -> Kept:
        os.fstat(lock)  # it is open
        self.started.append(command)
        return self

    def wait(self) -> int:
        code, seconds = self._ends.pop(0)
        self._now += seconds
        if not self._ends:
            shutil.rmtree(self._directory)
        return code


def test_one_that_cannot_start_is_tried_again_later_and_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "node"
    directory.mkdir()
    soon, late = keeper.SHORTEST_LIFE_S - 1, keeper.SHORTEST_LIFE_S + 1
    kept = Kept(directory, [(1, soon)] * 8 + [(1, late)] + [(1, soon)] * 2 + [(-9, soon), (1, soon), (0, soon)])
    monkeypatch.setattr(keeper, "time", kept)
    monkeypatch.setattr(keeper, "_start", kept.start)
    keeper._keep(directory / keeper.LOCK, ["exporter"])
    assert kept.slept == [1, 2, 4, 8, 16, 32, 60, 60, 1, 2, 1]
    assert kept.started == [["exporter"]] * 14


def test_of_a_directory_that_was_removed_while_it_waited_nobody_is_the_exporter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def removed_meanwhile(file: int, how: int) -> None:
        asked.append(how)
        (tmp_path / keeper.LOCK).unlink()

    monkeypatch.setattr(keeper.fcntl, "flock", removed_meanwhile)
    monkeypatch.setattr(keeper, "_start", lambda *_: pytest.fail("it is started"))
    before = len(os.listdir("/proc/self/fd"))
    keeper._keep(tmp_path / keeper.LOCK, ["exporter"])
    assert (asked, len(os.listdir("/proc/self/fd"))) == ([keeper.fcntl.LOCK_EX], before)
    keeper._keep(tmp_path / "gone" / keeper.LOCK, ["exporter"])


def test_an_exporter_lives_below_a_shell_with_the_lock_and_ends_as_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lock = os.open(tmp_path / keeper.LOCK, os.O_RDWR | os.O_CREAT)
    told = tmp_path / "told"
    code = f"import os, pathlib, monitoring; os.fstat({lock}); pathlib.Path({str(told)!r}).write_text(os.getcwd()); "
    process = keeper._start([sys.executable, "-c", f"{code}print('unseen'); raise SystemExit(7)", "a b"], lock)
    os.close(lock)
    assert process.wait(120) == 7
    assert told.read_text() == str(ROOT)
    assert (process.stdin, process.stdout) == (None, None)


def test_what_an_exporter_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Path, list[str]]] = []
    monkeypatch.setattr(keeper, "_keep", lambda lock, command: told.append((lock, command)))
    node = tmp_path / "a" / "node"
    watching = keeper.keep_exporter(node, "::1", 7)
    watching.join(120)
    assert watching.name == "metrics-exporter"
    keeper.keep_exporter(node, "::1", 7, tmp_path, {"ray": "a:1", "other": "b:2"}, 3.5, node_pid=9).join(120)
    plain = ["--directory", str(node), "--host", "::1", "--port", "7"]
    assert told == [
        (node / keeper.LOCK, [sys.executable, "-m", "monitoring.exporter", *plain, "--linger-s", "600.0"]),
        (
            node / keeper.LOCK,
            [
                *(sys.executable, "-m", "monitoring.exporter", *plain, "--linger-s", "3.5", "--node-pid", "9"),
                *("--targets", str(tmp_path), "--also", "ray=a:1", "--also", "other=b:2"),
            ],
        ),
    ]
