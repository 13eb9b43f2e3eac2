"""Processes of a real server are killed and stopped while it serves. Each test but the last leaves it whole again."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import LONG, Cluster
from tests.support.leftovers import directories_of
from tests.support.processes import command_line, is_gone, kill
from tests.support.ray_end import end_with_ray
from tests.support.sharing import is_last
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.faults

PAUSE = "a stream pauses, then goes on with the text of an undisturbed run"


def completion(cluster: Cluster, **fields: object) -> dict[str, object]:
    return {"model": cluster.name, "prompt": "def f(x):", "max_tokens": 16, "temperature": 0, **fields}


def text(cluster: Cluster) -> str | None:
    """A short completion, or None while the server has none to give."""
    try:
        answer = httpx.post(f"{cluster.url}/v1/completions", json=completion(cluster), timeout=PATIENCE_S)
    except httpx.HTTPError:
        return None
    return str(answer.json()["choices"][0]["text"]) if answer.status_code == 200 else None


def counters(cluster: Cluster) -> dict[str, float]:
    """Everything that may only grow, by its series."""
    lines = httpx.get(f"{cluster.url}/metrics", timeout=PATIENCE_S).text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs if re.search(r"_(total|count|sum|bucket)\{", name)}


def failures(counted: dict[str, float], *causes: str) -> float:
    """Engines given up for these causes."""
    series = [name for name in counted if name.startswith("starcoder_rank_failures_total{")]
    return sum(counted[name] for name in series if any(f'cause="{cause}"' in name for cause in causes))


def deaths(counted: dict[str, float], process: str) -> float:
    """Processes that ended without a word."""
    series = [name for name in counted if name.startswith("starcoder_process_deaths_total{")]
    return sum(counted[name] for name in series if f'process="{process}"' in name)


@pytest.fixture(autouse=True)
def whole_again(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[None]:
    if is_last(request.node):
        yield
        return
    before, counted, pids = text(cluster), counters(cluster), cluster.pids()
    assert before is not None
    yield
    wait_until(lambda: text(cluster) is not None, cluster.text, period_s=0.2)
    assert text(cluster) == before
    assert cluster.settled_pids("RankProcess", 2)
    after = counters(cluster)
    assert {name for name, value in counted.items() if after.get(name, 0.0) < value} == set(), "counters fell"
    wait_until(lambda: not directories_of([pid for pid in pids if is_gone(pid)]), "sockets of the dead stay")


def events(response: httpx.Response) -> Iterator[dict[str, object]]:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def replaced(cluster: Cluster) -> list[str]:
    """Engines that another one says it takes the place of."""
    return [line["replaces"] for line in cluster.lines("engine.starting") if "replaces" in line]


def streamed(cluster: Cluster, **fields: object) -> Iterator[tuple[str, dict[str, object]]]:
    """The text and the whole of each event, as they come; the last one's text is its usage."""
    options = {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    request = completion(cluster, **options, **fields)
    with httpx.stream("POST", f"{cluster.url}/v1/completions", json=request, timeout=240) as response:
        assert response.status_code == 200
        for event in events(response):
            assert "error" not in event, event
            choices = event["choices"]
            assert isinstance(choices, list)
            yield (choices[0]["text"] if choices else ""), event


Piece = tuple[str, dict[str, object]]
DRAWING: dict[str, object] = {"max_tokens": 400, "temperature": 0.8, "seed": 11}
GREEDY: dict[str, object] = {"max_tokens": 300, "stop": ["\ufffe never"]}
"""Drafts guess nine of its tokens in ten: it may be over before the other is broken."""


@cache
def undisturbed(cluster: Cluster) -> list[list[Piece]]:
    """The two streams of a server, once for all that break one."""
    return [list(streamed(cluster, **fields)) for fields in (DRAWING, GREEDY)]


def break_mid_stream(cluster: Cluster, pid: int, number: signal.Signals) -> float:
    """Signal a process while a stream that draws is open, beside a greedy one: both go on as if nothing had been.

    Seconds from the signal to the next token.
    """
    engines = [*cluster.pids("RankProcess"), *cluster.pids("ServeReplica:starcoder:engine")]
    before, engine = replaced(cluster), cluster.lines("engine.ready")[-1]["replica"]
    resumed = counted(cluster, "starcoder_requests_resumed_total")
    with ThreadPoolExecutor(1) as pool:
        known = undisturbed(cluster)
        other = pool.submit(lambda: list(streamed(cluster, **GREEDY)))
        stream, pieces, waits = streamed(cluster, **DRAWING), list[Piece](), list[float]()
        while len(pieces) < 10:
            pieces.append(next(stream))
        kill(pid, number)
        last = time.monotonic()
        for piece in stream:
            pieces.append(piece)
            now = time.monotonic()
            waits.append(now - last)
            last = now
        found = [pieces, other.result()]
    for whole, got in zip(known, found, strict=True):
        assert "".join(piece for piece, _ in got) == "".join(piece for piece, _ in whole)
        usage, expected = got[-1][1]["usage"], whole[-1][1]["usage"]
        assert isinstance(usage, dict)
        assert isinstance(expected, dict)
        assert {**usage, "prompt_tokens_details": 0} == {**expected, "prompt_tokens_details": 0}
    wait_until(lambda: all(is_gone(pid) for pid in engines), lambda: f"{engines} live on")
    wait_until(lambda: replaced(cluster) == [*before, engine], cluster.text)
    assert counted(cluster, "starcoder_requests_resumed_total") >= resumed + 1
    return max(waits)


def counted(cluster: Cluster, name: str) -> float:
    return sum(value for series, value in counters(cluster).items() if series.startswith(f"{name}{{"))


@pytest.mark.fault("a rank is killed", PAUSE, until="next token")
def test_a_rank_is_killed(cluster: Cluster, recovered: Callable[[float], None]) -> None:
    """The first of two; the next test stops the second. tests/model/process/test_loop.py kills either."""
    before, dead = failures(counters(cluster), "died"), deaths(counters(cluster), "engine")
    pid = cluster.settled_pids("RankProcess", 2)[0]
    pause = break_mid_stream(cluster, pid, signal.SIGKILL)
    assert failures(counters(cluster), "died") == before + 1
    assert deaths(counters(cluster), "engine") == dead, "its replica has said why it ends"
    died = cluster.lines("rank.died")[-1]
    assert died["rank_pid"] == pid
    assert cluster.lines("engine.dead")[-1]["message"].startswith(f"rank {died['rank']} died")
    recovered(pause)


@pytest.mark.fault("a rank hangs, its sockets open; `step-timeout-s` is 8", PAUSE, until="next token")
def test_a_rank_hangs(cluster: Cluster, recovered: Callable[[float], None]) -> None:
    """A stopped process still holds its sockets open: only the deadline of a step tells."""
    before = failures(counters(cluster), "hung", "heartbeat")
    pause = break_mid_stream(cluster, cluster.settled_pids("RankProcess", 2)[1], signal.SIGSTOP)
    assert failures(counters(cluster), "hung", "heartbeat") == before + 1
    recovered(pause)


@pytest.mark.fault("the engine's replica is killed", PAUSE, until="next token")
def test_the_replica_is_killed(cluster: Cluster, recovered: Callable[[float], None]) -> None:
    """As the OOM killer does it. Nobody is left to clean up after it or to count it, and still both are done."""
    before, dead = failures(counters(cluster), "killed"), deaths(counters(cluster), "engine")
    (replica,) = cluster.settled_pids("ServeReplica:starcoder:engine")
    pause = break_mid_stream(cluster, replica, signal.SIGKILL)
    assert failures(counters(cluster), "killed") == before + 1
    assert deaths(counters(cluster), "engine") == dead + 1
    recovered(pause)


@pytest.mark.fault(
    "an ingress is killed",
    "connections are closed; a new ingress answers, and what the engine did for the old one has ended",
    until="that",
)
def test_what_a_killed_ingress_had_asked_for_ends(cluster: Cluster, recovered: Callable[[float], None]) -> None:
    """Its streams are cut, and nobody is left to wait for what the engine would go on with.

    Who wants a whole answer is cut off, too, or HAProxy asks the next ingress, which then runs the request once more.
    """
    (ingress,) = cluster.settled_pids("ServeReplica:starcoder:ingress")
    dead = deaths(counters(cluster), "ingress")
    generated = counted(cluster, "starcoder_generation_tokens_total")
    # one asks for a whole answer, the other for a stream
    whole = completion(cluster, **LONG)
    with ThreadPoolExecutor(2) as pool:
        streamed, _ = [pool.submit(cut_off, cluster, {**whole, "stream": stream}) for stream in (True, False)]
        wait_until(lambda: (cluster.health() or {}).get("running") == 2, cluster.text, period_s=0.05)
        kill(ingress)
        killed_at = time.monotonic()
        wait_until(lambda: (cluster.health() or {}).get("running") == 0, cluster.text, period_s=0.05)
        recovered(time.monotonic() - killed_at)
        assert streamed.result()
    # the stream, what waited for its whole answer, and that once more where HAProxy has asked the next ingress
    ended_after = counted(cluster, "starcoder_generation_tokens_total") - generated
    assert ended_after < 2 * int(str(LONG["max_tokens"])), "both came to their end"
    assert deaths(counters(cluster), "ingress") == dead + 1


def cut_off(cluster: Cluster, body: dict[str, object]) -> bool:
    """Whether a request does not come to its end in order."""
    try:
        answer = httpx.post(f"{cluster.url}/v1/completions", json=body, timeout=PATIENCE_S)
    except httpx.HTTPError:
        return True
    return answer.status_code >= 500


@pytest.mark.fault(
    "HAProxy is killed",
    "connections are closed, and what their requests would go on with ends; a new one answers",
    until="that",
)
def test_a_killed_front_is_started_anew(cluster: Cluster, recovered: Callable[[float], None]) -> None:
    (victim,) = cluster.settled_pids("bin/haproxy")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(cut_off, cluster, a_long_stream(cluster))
        wait_until(lambda: (cluster.health() or {}).get("running") == 1, cluster.text, period_s=0.05)
        kill(victim)
        killed_at = time.monotonic()
        assert call.result()
        wait_until(lambda: (cluster.health() or {}).get("running") == 0, cluster.text, period_s=0.05)
        recovered(time.monotonic() - killed_at)
    wait_until(lambda: is_gone(victim), "it lives on")


@pytest.mark.fault(
    "Serve's process that keeps HAProxy is killed",
    "open streams go on; no new connections, until both are started anew",
    until="an answer",
)
def test_streams_go_on_when_the_fronts_keeper_is_killed(cluster: Cluster, recovered: Callable[[float], None]) -> None:
    (victim,), (front,) = cluster.settled_pids("HAProxyManager"), cluster.settled_pids("bin/haproxy")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(cut_off, cluster, a_long_stream(cluster))
        wait_until(lambda: (cluster.health() or {}).get("running") == 1, cluster.text, period_s=0.05)
        kill(victim)
        killed_at = time.monotonic()
        wait_until(lambda: text(cluster) is not None, cluster.text, period_s=0.05)
        recovered(time.monotonic() - killed_at)
        assert not call.result()
    wait_until(lambda: is_gone(front), "it lives on, with nothing open")


def a_long_stream(cluster: Cluster) -> dict[str, object]:
    return completion(cluster, stream=True, **{**LONG, "max_tokens": 1000})


@pytest.mark.fault(
    "a rank of an engine without requests hangs; `health-check-period-s` is 2",
    "a request that comes then waits",
    until="a whole answer",
)
def test_an_idle_engine_that_hangs_is_replaced(cluster: Cluster, recovered: Callable[[float], None]) -> None:
    """No request is open, so no step is late: the heartbeat finds it."""
    stopped = cluster.settled_pids("RankProcess", 2)[1]
    stopped_at = time.monotonic()
    kill(stopped, signal.SIGSTOP)
    wait_until(lambda: is_gone(stopped), cluster.text)
    wait_until(lambda: text(cluster) is not None, cluster.text, period_s=0.2)
    recovered(time.monotonic() - stopped_at)


@pytest.mark.fault(
    "a second `starcoder serve` comes to the cluster",
    "nothing: it is refused, and the first goes on",
    until="the second command's end",
)
def test_a_second_command_leaves_the_first_ones_application_alone(
    cluster: Cluster, tiny_checkpoint: Path, tmp_path: Path, recovered: Callable[[float], None]
) -> None:
    started_with = "\n".join(map(command_line, cluster.pids("raylet")))
    [address, *_] = re.findall(r"gcs[-_]address=([\w.:]+)", started_with)
    # a cluster on loopback only is found there by who is told so, as the first command tells itself
    environment = {"RAY_ADDRESS": address, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    second = Cluster(tiny_checkpoint, tmp_path / "second.txt", **environment)
    try:
        launched_at = time.monotonic()
        second.launch()
        assert second.process.wait(120) == 1
        recovered(time.monotonic() - launched_at)
    finally:
        second.stop()
    assert "has an application 'starcoder' already" in second.text()
    assert "Traceback" not in second.text()
    assert cluster.health() is not None
    request = {"prompt": "def f(x):", "max_tokens": 3}
    assert httpx.post(f"{cluster.url}/v1/completions", json=request, timeout=PATIENCE_S).status_code == 200


@pytest.mark.last
@pytest.mark.fault(
    "Ray's GCS is killed",
    "streams end with an error event (`node_lost`); `starcoder serve` exits with 1 and leaves nothing",
    until="the command's end",
)
def test_the_command_ends_with_the_gcs(cluster: Cluster, recovered: Callable[[float], None]) -> None:
    recovered(end_with_ray(cluster, "gcs_server"))
