"""What the exporter's probe says of a server that answers, hangs, fails and goes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from monitoring.exporter import NodeExporter
from monitoring.front import FILE, Front, tell, told
from monitoring.probe import PATH, Probe
from tests.support.http_server import serving
from tests.support.waiting import wait_until

NOWHERE = Front("127.0.0.1", 1, False, "pico")


class Server:
    """Answers every request with `status`; None: not at all."""

    def __init__(self) -> None:
        self.status: int | None = 200
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        if self.status is None:
            await asyncio.sleep(3600)
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture
def probe(tmp_path: Path) -> Iterator[Probe]:
    probe = Probe(tmp_path, period_s=0.01, timeout_s=0.2)
    yield probe
    probe.close()


def success(probe: Probe) -> float | None:
    """What it says; None for nothing."""
    found = [sample for family in probe.collect() for sample in family.samples if sample.name.endswith("_success")]
    assert all(sample.labels == {"model": "pico"} for sample in found)
    return found[0].value if found else None


def test_it_says_what_a_client_sees(tmp_path: Path, probe: Probe) -> None:
    server = Server()
    with serving(server) as url:
        tell(tmp_path, Front("0.0.0.0", int(url.rpartition(":")[2]), False, "pico"))
        wait_until(lambda: success(probe) == 1, "an answer is not seen")
        assert set(server.asked) == {PATH}
        for status, expected in ((503, 0), (401, 1), (None, 0), (200, 1)):
            server.status = status
            wait_until(lambda expected=expected: success(probe) == expected, f"{status} is not seen")  # type: ignore[misc]
    wait_until(lambda: success(probe) == 0, "it is gone")
    (seconds,) = (sample.value for family in probe.collect() for sample in family.samples if "seconds" in sample.name)
    assert seconds < 5


def test_a_server_that_has_never_answered_is_nothing(tmp_path: Path, probe: Probe) -> None:
    """It starts, or is served elsewhere than its settings say."""
    server = Server()
    server.status = 503
    with serving(server) as url:
        tell(tmp_path, Front("127.0.0.1", int(url.rpartition(":")[2]), False, "pico"))
        wait_until(lambda: len(server.asked) > 2, "it is not asked")
        assert success(probe) is None
        server.status = 200
        wait_until(lambda: success(probe) == 1, "an answer is not seen")
        tell(tmp_path, NOWHERE)
        wait_until(lambda: success(probe) is None, "what the other one answered stays")


def test_the_newest_front_of_the_nodes_below_counts(tmp_path: Path) -> None:
    """An exporter beside a pod's processes is given the directory above; a raylet that restarts has a new id."""
    assert told(tmp_path) is None
    for number in (1, 2):
        (tmp_path / f"node-{number}").mkdir()
        tell(tmp_path / f"node-{number}", Front("127.0.0.1", number, True, "pico"))
    os.utime(tmp_path / "node-1" / FILE, (1, 1))
    assert told(tmp_path) == Front("127.0.0.1", 2, True, "pico")
    (tmp_path / "node-2" / FILE).write_text("{")
    assert told(tmp_path) is None


def test_the_exporter_says_it(tmp_path: Path) -> None:
    with serving(Server()) as url:
        tell(tmp_path, Front("127.0.0.1", int(url.rpartition(":")[2]), False, "pico"))
        with NodeExporter(tmp_path, port=0) as exporter:
            page = Front("127.0.0.1", exporter.port, False, "pico")
            wait_until(
                lambda: b'starcoder_probe_success{model="pico"} 1.0' in page.get("/metrics")[1], "it is not said"
            )
    assert page.get("/metrics") is None
