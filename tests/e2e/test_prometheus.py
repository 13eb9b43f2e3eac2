"""A real Prometheus scrapes the real server under load: every panel of every board shows something."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deployments.command.ports import free_port
from monitoring.boards.all import BOARDS
from monitoring.panel_values import Shown, ask, shown, table
from monitoring.prometheus import command, configuration
from tests.support.cluster import Cluster
from tests.support.programs import program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

SCRAPE_S = 2.0


@pytest.fixture
def prometheus(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """Its URL, once it has scraped the node's exporter and Ray."""
    file = tmp_path / "prometheus.yml"
    file.write_text(configuration(cluster.metrics_directory / "targets", SCRAPE_S))
    url = f"http://127.0.0.1:{(port := free_port())}"
    log = tmp_path / "prometheus.txt"
    with log.open("wb") as output:
        arguments = command(program("prometheus"), file, tmp_path / "data", port)
        process = subprocess.Popen(arguments, stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or up(url) >= {"ray", "starcoder"}, log.read_text)
        assert process.poll() is None, log.read_text()
        yield url
    finally:
        process.terminate()
        process.wait(120)


def up(url: str) -> set[str]:
    """Jobs whose targets answer."""
    try:
        with urllib.request.urlopen(f"{url}/api/v1/targets?state=active", timeout=120) as answer:
            targets = json.load(answer)["data"]["activeTargets"]
    except OSError:
        return set()
    return {target["labels"]["job"] for target in targets if target["health"] == "up"}


class Load:
    """People who type, in several dialects, some of whom leave; until closed."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)

    def _run(self) -> None:
        prefix = "def wrap(text, width=70):\n    return text" + " + text" * 20
        with httpx.Client(base_url=self.cluster.url, timeout=120) as client:
            while not self._stop.is_set():
                prefix += " + 1"
                body = {"prompt": prefix[-400:], "suffix": "\n\nprint(wrap)\n", "max_tokens": 12, "ignore_eos": True}
                client.post("/v1/completions", json=body)
                client.post("/v1/completions", json={"prompt": 1.5})
                client.post("/generate", json={"inputs": prefix, "parameters": {"max_new_tokens": 8}})
                made = client.post("/v1/completions", json={"segments": {"prefix": prefix}, "language": "python"})
                for kind in ("view", "select"):
                    event = {"type": kind, "completion_id": made.json()["id"], "choice_index": 0}
                    client.post("/v1/events", json=event)
                endless = {**body, "max_tokens": 500, "stream": True}
                with contextlib.suppress(httpx.HTTPError), client.stream("POST", "/v1/completions", json=endless) as s:
                    next(s.iter_lines())


def test_every_panel_shows_something(prometheus: str, cluster: Cluster, tmp_path: Path) -> None:
    rows: list[Shown] = []

    def all_shown() -> bool:
        rows[:] = shown(prometheus, BOARDS)
        return all(row.complete for row in rows if row.panel.needs is None)

    with Load(cluster):
        wait_until(all_shown, lambda: "empty:\n" + table(row for row in rows if not row.complete), period_s=1.0)
    print(table(rows))
    for row in rows:
        if row.panel.needs is not None:
            # Else it should say nothing of what it needs.
            assert not row.complete, f"{row.panel.title} shows something: {row.values}"
    shares = [value for row in rows if row.panel.unit == "percentunit" for _, value in row.values]
    assert all(-1e-9 <= value <= 2 for value in shares), "a share is no share"
    # The rules were loaded and nothing cries wolf on a healthy server.
    assert ask(prometheus, "starcoder:errors:burn_5m")
    assert ask(prometheus, 'count(ALERTS{alertstate="firing"})') == []
