"""No engine is alive, and none comes back in time: everybody is told so, soon and in order."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import Cluster
from tests.support.processes import kill
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

RESUME_S = 2.0
BODY = {"prompt": "def f(x):", "max_tokens": 8}
LONG = {**BODY, "max_tokens": 1900, "ignore_eos": True, "stream": True}


@pytest.mark.fault(
    "the only engine is killed and none takes its place; `resume-timeout-s` is 2",
    "64 requests and `/health` get 503, `engine_unavailable`; an open stream ends with an error event",
    until="the last of them",
)
def test_no_request_waits_for_ever(tiny_checkpoint: Path, tmp_path: Path, recovered: Callable[[float], None]) -> None:
    options = ("--dtype", "float32", "--num-threads", "1", "--max-queued-requests", "16")
    metrics = ("--metrics-dir", str(tmp_path / "metrics"))
    server = Cluster(tiny_checkpoint, tmp_path / "serve.txt", *options, *metrics, "--resume-timeout-s", str(RESUME_S))
    with server.running():
        recovered(_without_an_engine(server))
        wait_until(lambda: _post(server)[0] == 200, server.text)
        assert "Traceback" not in server.text()


def _without_an_engine(server: Cluster) -> float:
    """Seconds until everybody was told."""
    stream = httpx.stream("POST", f"{server.url}/v1/completions", json=LONG, timeout=120)
    with ThreadPoolExecutor(64) as pool, stream as response:
        lines = response.iter_lines()
        next(lines)
        # Its successor must not be ready before the test has asked: it is kept from starting.
        for pid in server.pids("ServeController"):
            kill(pid, signal.SIGSTOP)
        try:
            for pid in server.pids("ServeReplica:starcoder:engine"):
                kill(pid, signal.SIGKILL)
            started_at = time.monotonic()
            asked = [pool.submit(_post, server) for _ in range(64)]
            health = httpx.get(f"{server.url}/health", timeout=60)
            *_, last = (line for line in lines if line)
            answers = [call.result() for call in asked]
            took = time.monotonic() - started_at
            shown = httpx.get(f"{server.url}/metrics", timeout=60).text
        finally:
            for pid in server.pids("ServeController"):
                kill(pid, signal.SIGCONT)
    assert took < 30
    assert Counter((status, code, bool(retry)) for status, code, retry in answers) == {
        (503, "engine_unavailable", True): 64
    }
    assert health.status_code == 503
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_unavailable"
    assert 'starcoder_engines_up{model="tiny-starcoder"} 0.0' in shown
    assert 'starcoder_requests_lost_total{model="tiny-starcoder"} 1.0' in shown
    assert 'starcoder_requests_waiting_for_engine{model="tiny-starcoder"} 0.0' in shown
    rejected = 'starcoder_requests_rejected_total{model="tiny-starcoder",reason="unavailable",team="default"} 64.0'
    assert rejected in shown
    return took


def _post(server: Cluster) -> tuple[int, str | None, str | None]:
    answer = httpx.post(f"{server.url}/v1/completions", json=BODY, timeout=120)
    code = answer.json()["error"]["code"] if answer.status_code != 200 else None
    return answer.status_code, code, answer.headers.get("retry-after")
