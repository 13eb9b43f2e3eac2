"""Two Ray nodes on one machine, each with its exporter: what a scraper sees while a replica is killed and replaced."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.command.processes import descendants
from tests.support.cluster import ROOT
from tests.support.processes import command_line, is_gone, kill
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

STARTUP_SECONDS = 240.0


def exporters(directory: Path) -> list[int]:
    lines = {int(e.name): command_line(int(e.name)) for e in Path("/proc").iterdir() if e.name.isdigit()}
    ours = {pid: line for pid, line in lines.items() if "monitoring.exporter" in line and str(directory) in line}
    return [pid for pid, line in ours.items() if not line.startswith("sh ")]


class TwoNodes:
    """The cluster, its recorders' process ids by node, and a scraper that compares each counter with the last time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.highest: dict[str, float] = {}
        self.scrapes = 0
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.two_nodes", str(directory)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.recorders = [self.next_pid(), self.next_pid()]

    def next_pid(self) -> int:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip().isdigit():
                return int(line)
        raise AssertionError("the cluster did not start")

    def start(self, node: int) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"start {node}\n")
        self.process.stdin.flush()
        return self.next_pid()

    def scrape(self) -> dict[str, float]:
        """Every node's series, `NODE name{labels}`. Fails where a counter is lower than it has been."""
        series: dict[str, float] = {}
        for target in sorted((self.directory / "targets").glob("node-*.json")):
            (address,) = json.loads(target.read_text())[0]["targets"]
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=120) as answer:
                for line in answer.read().decode().splitlines():
                    if not line.startswith("#"):
                        name, _, value = line.rpartition(" ")
                        series[f"{target.stem} {name}"] = float(value)
        for name, value in series.items():
            if re.search(r"_(total|count|sum|bucket)\{", name):
                assert value >= self.highest.get(name, 0.0), f"{name} fell from {self.highest[name]} to {value}"
                self.highest[name] = value
        missing = self.highest.keys() - series.keys()
        assert not missing, f"counters went away: {sorted(missing)[:5]}"
        self.scrapes += 1
        return series

    def by_node(self, name: str) -> list[float]:
        nodes: dict[str, float] = {}
        for series, value in self.scrape().items():
            node, _, full = series.partition(" ")
            if full.startswith(f"{name}{{"):
                nodes[node] = nodes.get(node, 0.0) + value
        return sorted(nodes.values())

    def close(self) -> None:
        tree = descendants(self.process.pid)
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(120)
        finally:
            self.process.kill()
            for pid in tree:
                if "ray" in command_line(pid):
                    kill(pid)
            # They outlive whoever started them, for as long as a replica takes to come back.
            for pid in exporters(self.directory):
                kill(pid)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoNodes]:
    nodes = TwoNodes(tmp_path / "metrics")
    try:
        yield nodes
    finally:
        nodes.close()


@pytest.mark.fault(
    "a replica on one of two nodes is killed, and another is started there",
    "a scraper sees no counter fall or go away; the gauges of the dead go",
    until="its gauges gone",
)
def test_counters_are_monotone_while_a_replica_is_killed_and_replaced(
    two: TwoNodes, recovered: Callable[[float], None]
) -> None:
    wait_until(lambda: two.by_node("starcoder_engines_up") == [1, 1], "two nodes with one engine each", STARTUP_SECONDS)
    assert len(exporters(two.directory)) == 2
    wait_until(lambda: min(two.by_node("starcoder_requests_superseded_total")) > 0, "nothing is counted")

    victim = two.recorders[1]
    killed_at = time.monotonic()
    kill(victim, signal.SIGKILL)
    wait_until(lambda: is_gone(victim), "it lives")
    # Its gauges go, its counts stay; the other node does not notice.
    wait_until(lambda: two.by_node("starcoder_engines_up") == [1], "the dead replica's gauge stays")
    recovered(time.monotonic() - killed_at)
    before = two.by_node("starcoder_wasted_tokens_total")
    assert len(before) == 2
    assert min(before) > 0

    two.start(1)
    wait_until(lambda: two.by_node("starcoder_engines_up") == [1, 1], "the new replica is not seen")
    floor = min(before)
    wait_until(lambda: min(two.by_node("starcoder_wasted_tokens_total")) > floor + 20, "it counts from zero")
    assert two.by_node("starcoder_engine_starts_total") == [1, 2]
    assert len(exporters(two.directory)) == 2
    wait_until(lambda: two.scrape() and two.scrapes > 10, "it is not scraped")
