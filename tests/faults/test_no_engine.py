"""A server of one engine: it dies, and none comes back in time, which everybody is told soon; and the server's end.

Serve's own proxy is in front; of HAProxy's end tests/faults/test_takeover.py knows more.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.administered import Administered
from tests.support.cluster import LONG
from tests.support.gatekeepers import bearer
from tests.support.leftovers import directories_of
from tests.support.processes import kill
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.faults

BODY = {"prompt": "def f(x):", "max_tokens": 8}


@pytest.mark.fault(
    "the only engine is killed and none takes its place; `resume-timeout-s` is 2",
    "64 requests and `/health` get 503, `engine_unavailable`; an open stream ends with an error event",
    until="the last of them",
)
def test_no_request_waits_for_ever(alone: Administered, recovered: Callable[[float], None]) -> None:
    said, key = len(alone.cluster.text()), alone.team("waiting")
    recovered(_without_an_engine(alone, key))
    wait_until(lambda: _post(alone, key)[0] == 200, alone.cluster.text)
    assert "Traceback" not in alone.cluster.text()[said:]


def _without_an_engine(alone: Administered, key: str) -> float:
    """Seconds until everybody was told."""
    server, body = alone.cluster, {**BODY, **LONG, "stream": True}
    address = f"{server.url}/v1/completions"
    stream = httpx.stream("POST", address, json=body, headers=bearer(key), timeout=PATIENCE_S)
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
            asked = [pool.submit(_post, alone, key) for _ in range(64)]
            health = httpx.get(f"{server.url}/health", timeout=PATIENCE_S)
            *_, last = (line for line in lines if line)
            answers = [call.result() for call in asked]
            took = time.monotonic() - started_at
            shown = httpx.get(f"{server.url}/metrics", headers=bearer(alone.keys[0]), timeout=PATIENCE_S).text
        finally:
            for pid in server.pids("ServeController"):
                kill(pid, signal.SIGCONT)
    assert took < PATIENCE_S / 2  # nobody waits for the end of a patience
    assert Counter((status, code, bool(retry)) for status, code, retry in answers) == {
        (503, "engine_unavailable", True): 64
    }
    assert health.status_code == 503
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_unavailable"
    assert 'starcoder_engines_up{model="tiny-starcoder"} 0.0' in shown
    assert 'starcoder_requests_lost_total{model="tiny-starcoder"} 1.0' in shown
    assert 'starcoder_requests_waiting_for_engine{model="tiny-starcoder"} 0.0' in shown
    rejected = 'starcoder_requests_rejected_total{model="tiny-starcoder",reason="unavailable",team="waiting"} 64.0'
    assert rejected in shown
    return took


def _post(alone: Administered, key: str) -> tuple[int, str | None, str | None]:
    answer = httpx.post(f"{alone.cluster.url}/v1/completions", json=BODY, headers=bearer(key), timeout=PATIENCE_S)
    code = answer.json()["error"]["code"] if answer.status_code != 200 else None
    return answer.status_code, code, answer.headers.get("retry-after")


@pytest.mark.last
@pytest.mark.fault(
    "SIGTERM, while a stream is open",
    "the stream is finished, new connections are refused; the command exits with 0 and leaves nothing",
    until="the command's end",
)
def test_sigterm_lets_streams_finish_and_leaves_nothing(
    alone: Administered, recovered: Callable[[float], None]
) -> None:
    server = alone.cluster
    wait_until(lambda: _post(alone, alone.secure.key)[0] == 200, server.text)
    tree, said = server.tree(), len(server.text())
    assert directories_of(tree) == directories_of([server.process.pid])
    lines: list[str] = []

    def read() -> None:
        body = {"prompt": "def f(x):", "max_tokens": 600, "temperature": 0, "ignore_eos": True, "stream": True}
        address, headers = f"{server.url}/v1/completions", bearer(alone.secure.key)
        with httpx.stream("POST", address, json=body, headers=headers, timeout=PATIENCE_S) as response:
            lines.extend(response.iter_lines())

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: len(lines) > 3, server.text)
    told_at = time.monotonic()
    assert server.stop(signal.SIGTERM) == 0
    recovered(time.monotonic() - told_at)
    reader.join(120)
    assert "data: [DONE]" in lines, (len(lines), lines[-3:], server.text()[-3000:])
    assert not any('"error":' in line for line in lines)
    server.leaves_nothing(tree)
    assert "Traceback" not in server.text()[said:]
    assert "Stopped." in server.text()
