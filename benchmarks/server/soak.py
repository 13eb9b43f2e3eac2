"""`python -m benchmarks soak`: whether clients that mean harm, or no good, make everybody else wait.

While nobody asks anything, while ordinary completions run, and while hostile clients do their worst, a process of its
own asks for `/version`, which only the front answers, and for `/health`, which an engine's replica answers too. What
holds an event loop for seconds shows there, whatever it is.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.metrics import PERCENTILES, distribution
from benchmarks.report import Result, Row, number
from benchmarks.server.completions import PATH, add_server_arguments, check_server, connect
from benchmarks.server.hostile_bodies import DONE
from benchmarks.server.hostile_clients import Attack, Server, attacks
from benchmarks.server.probing import Probe, Prober

PICTURE = "the distribution of probes' times"

VERSION, HEALTH = "/version", "/health"
IDLE, ORDINARY, HOSTILE = PHASES = ("idle", "ordinary", "hostile")
_OPEN = (
    "num_requests_running",
    "num_requests_waiting",
    "requests_waiting_for_engine",
    "queue_oldest_age_seconds",
    "kv_cache_blocks_used",
)
"""Gauges that are 0 on a server whose clients have all gone."""

_SETTLED_S = 120.0
_SLOWEST = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=3.0, help="of the whole run, a third for each kind of load")
    parser.add_argument("--clients", type=int, default=4, help="that ask at once")
    # Not below deployments.http.handle_backend.HEALTH_FRESH_S: an answer would be an older question's.
    parser.add_argument("--probe-interval", type=float, default=0.15, help="seconds between questions")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds after which an answer counts as missing")
    add_server_arguments(parser)


@dataclass(frozen=True)
class Done:
    """One request of a load. wrong: why its answer is none of the right ones."""

    name: str
    began: float
    ended: float
    status: int | None
    wrong: str | None = None


@dataclass
class Phase:
    """began, ended: on the probes' clock."""

    name: str
    began: float = 0.0
    ended: float = 0.0
    done: list[Done] = field(default_factory=list)


def run(options: argparse.Namespace) -> Result:
    return asyncio.run(measure(options))


async def measure(options: argparse.Namespace) -> Result:
    """Raises ValueError for a server of somebody else, RuntimeError where none answers or requests are never ended."""
    if options.minutes <= 0 or options.clients < 1 or options.probe_interval <= 0:
        raise ValueError("minutes and probe-interval must be above 0, clients at least 1")
    seconds = options.minutes * 60 / len(PHASES)
    headers = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    server = Server.at(options.url, options.api_key)
    async with connect(options) as client:
        await check_server(client)
        await settled(client)
        with Prober(options.url, (VERSION, HEALTH), options.probe_interval, headers) as prober:
            await asyncio.to_thread(prober.wait)
            loads = {IDLE: [], ORDINARY: [ordinary(client)], HOSTILE: [against(server, one) for one in attacks()]}
            phases = [
                await load(name, requests, options.clients, seconds, options.patience)
                for name, requests in loads.items()
            ]
            found = {
                (phase.name, path): await asyncio.to_thread(prober.between, phase.began, phase.ended, path)
                for phase in phases
                for path in (VERSION, HEALTH)
            }
        await settled(client)
    return result(options, phases, found)


Request = tuple[str, Callable[[], Awaitable[int | None]], frozenset[int | None]]
"""Name, what is done, and which statuses are right."""


def ordinary(client: httpx.AsyncClient) -> Request:
    """A completion with some kilobytes around the cursor, other ones each time."""
    numbers = itertools.count()

    async def complete() -> int | None:
        lines = [f"def f{next(numbers)}(x):\n    return x + {n}\n\n" for n in range(60)]
        body = {"prompt": "".join(lines), "suffix": "".join(lines), "max_tokens": 32, "truncate_prompt_tokens": -1}
        return (await client.post(PATH, json=body)).status_code

    return "a completion", complete, frozenset(DONE)


def against(server: Server, attack: Attack) -> Request:
    return attack.name, lambda: attack.perform(server), attack.statuses


async def load(name: str, requests: Sequence[Request], clients: int, seconds: float, patience_s: float) -> Phase:
    """Each of the clients does the next one in turn, until the time is over and every one has been done."""
    phase = Phase(name, began=time.monotonic())
    turns = enumerate(itertools.cycle(requests))

    async def one_client() -> None:
        for turn, request in turns:
            if turn >= len(requests) and time.monotonic() - phase.began >= seconds:
                return
            phase.done.append(await _do(request, patience_s))

    if requests:
        await asyncio.gather(*(one_client() for _ in range(clients)))
    else:
        await asyncio.sleep(seconds)
    phase.ended = time.monotonic()
    return phase


async def _do(request: Request, patience_s: float) -> Done:
    name, perform, right = request
    began, status, wrong = time.monotonic(), None, None
    try:
        async with asyncio.timeout(patience_s):
            status = await perform()
        if status not in right:
            wrong = "no answer" if status is None else f"answered {status}"
    except TimeoutError:
        wrong = f"no answer in {patience_s:g} s"
    except (OSError, EOFError, httpx.HTTPError) as error:
        wrong = f"{type(error).__name__}: {error}"
    return Done(name, began, time.monotonic(), status, wrong)


async def settled(client: httpx.AsyncClient, patience_s: float = _SETTLED_S) -> None:
    """Return once nothing is left open on the server; raise RuntimeError where something stays."""
    deadline = time.monotonic() + patience_s
    while left := await left_open(client):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the server still has open what nobody waits for: {left}")
        await asyncio.sleep(0.1)


async def left_open(client: httpx.AsyncClient) -> dict[str, float]:
    """The gauges that should be 0 and are not, without their prefix."""
    families = text_string_to_metric_families((await client.get("/metrics")).text)
    samples = [sample for family in families for sample in family.samples]
    found: Counter[str] = Counter()
    for sample in samples:
        name = sample.name.removeprefix("starcoder_")
        if name in _OPEN and sample.value:
            found[name] += sample.value  # type: ignore[assignment]
    return dict(found)


def result(options: argparse.Namespace, phases: list[Phase], found: dict[tuple[str, str], list[Probe]]) -> Result:
    """Latencies by load and path; in `details`, wrong answers and what ran while the slowest were waited for."""
    metrics: dict[str, Any] = {}
    rows: list[Row] = [("load and question", "asked", *(f"p{p} ms" for p in PERCENTILES), "longest ms", "failed")]
    for (load_name, path), probes in found.items():
        name, seconds = f"{load_name}_{path.strip('/')}", [probe.seconds for probe in probes]
        spread = distribution(name, seconds)
        metrics |= spread
        metrics[f"max_{name}_ms"] = max(seconds, default=0.0) * 1000
        metrics[f"failed_{name}"] = sum(probe.status != 200 for probe in probes)
        shown = [*(spread.get(f"p{p}_{name}_ms") for p in PERCENTILES), metrics[f"max_{name}_ms"]]
        rows.append((f"{load_name} {path}", str(len(probes)), *map(number, shown), str(metrics[f"failed_{name}"])))
    done = [one for phase in phases for one in phase.done]
    for phase in phases:
        metrics[f"{phase.name}_requests"] = len(phase.done)
    metrics["wrong_answers"] = sum(one.wrong is not None for one in done)
    wrong: list[Row] = [("request", "answer"), *((one.name, one.wrong) for one in done if one.wrong)]
    slowest = [probe for path in (VERSION, HEALTH) for probe in _slowest(found, path)]
    hidden = ("run", "output", "plot", "command", "api_key", "url")
    return Result(
        "soak",
        {name: value for name, value in vars(options).items() if name not in hidden},
        metrics,
        samples={f"{phase}_{path.strip('/')}": [p.seconds for p in probes] for (phase, path), probes in found.items()},
        tables={"questions that cost nothing": rows, **({"wrong answers": wrong} if len(wrong) > 1 else {})},
        details=[{"path": p.path, "seconds": p.seconds, "during": during(p, done)} for p in slowest],
    )


def _slowest(found: dict[tuple[str, str], list[Probe]], path: str) -> list[Probe]:
    probes = [probe for (_, of), probes in found.items() if of == path for probe in probes]
    return sorted(probes, key=lambda probe: -probe.seconds)[:_SLOWEST]


def during(probe: Probe, done: Sequence[Done]) -> list[str]:
    """What ran while somebody waited for this answer."""
    ended = probe.asked + probe.seconds
    return sorted({one.name for one in done if one.began < ended and probe.asked < one.ended})
