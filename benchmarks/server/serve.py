"""`python -m benchmarks serve`: load on a running OpenAI-compatible server, as `vllm bench serve` makes it.

Requests leave at random moments (`--request-rate`, `--burstiness`), whatever has become of earlier ones, unless
`--max-concurrency` holds them back; what a request waits for its turn there is not part of its latency (as in vLLM).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from typing import Any

import httpx
import numpy as np

from benchmarks.metrics import Timeline, samples, summarize
from benchmarks.report import Result, Row
from benchmarks.server.arrivals import arrival_times
from benchmarks.server.completions import Completion, add_server_arguments, check_server, connect, stream
from benchmarks.server.slo import Slo, goodput

PICTURE = "the distributions of what was observed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-prompts", type=int, default=100)
    parser.add_argument("--request-rate", type=float, default=float("inf"), help="requests a second on average")
    parser.add_argument("--burstiness", type=float, default=1.0, help="1: Poisson; less: bursts; more: even")
    parser.add_argument("--max-concurrency", type=int, help="most requests open at once")
    parser.add_argument("--input-len", type=int, default=512, help="random token ids in a prompt")
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--shared-prefix-len", type=int, default=0, help="more ids that all prompts begin with")
    parser.add_argument("--vocab-size", type=int, default=1024, help="ids are drawn below it; at most the model's")
    parser.add_argument("--ignore-eos", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--num-warmups", type=int, default=1, help="requests before the clock starts")
    parser.add_argument("--slo", type=Slo.parse, help="such as ttft:0.2,e2e:1 in seconds: also report goodput")
    parser.add_argument("--seed", type=int, default=0)
    add_server_arguments(parser)


def run(options: argparse.Namespace) -> Result:
    return asyncio.run(measure(options))


async def measure(options: argparse.Namespace) -> Result:
    """Raises ValueError for a server of somebody else, RuntimeError where none answers or every request failed."""
    times = arrival_times(options.num_prompts, options.request_rate, options.burstiness, options.seed)
    bodies = request_bodies(options)
    async with connect(options) as client:
        await check_server(client)
        for body in bodies[len(times) :]:
            await stream(client, body, Completion(Timeline(0.0)))
        load = Load(client, options.max_concurrency)
        started = time.perf_counter()
        await load.send(bodies[: len(times)], times)
        duration = time.perf_counter() - started
    timelines = [c.timeline for c in load.completions]
    if not any(t.completed for t in timelines):
        raise RuntimeError(f"every request failed; the first: {timelines[0].error}")
    found: dict[str, Any] = summarize(timelines, duration)
    found["max_concurrent_requests"] = load.most_open
    if options.slo is not None:
        found["request_goodput"] = goodput(timelines, duration, options.slo)
    return Result("serve", settings(options), found, samples=samples(timelines), tables=_failures(timelines))


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The options, without secrets and what JSON cannot hold; an infinite rate is written as text."""
    hidden = ("run", "output", "plot", "command", "api_key", "url")
    found = {k: v for k, v in vars(options).items() if k not in hidden}
    found["request_rate"] = str(options.request_rate)
    found["slo"] = None if options.slo is None else vars(options.slo)
    return found


def request_bodies(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One a prompt, then those of the warm-up, all of them with random ids of their own."""
    generator = np.random.default_rng(options.seed)
    low = min(100, options.vocab_size // 2)

    def ids(count: int) -> list[int]:
        return [int(i) for i in generator.integers(low, options.vocab_size, size=count)]

    shared = ids(options.shared_prefix_len)
    body: dict[str, Any] = {"max_tokens": options.output_len, "temperature": options.temperature}
    if options.ignore_eos:
        body["ignore_eos"] = True
    if options.served_model:
        body["model"] = options.served_model
    count = options.num_prompts + options.num_warmups
    return [{**body, "prompt": shared + ids(options.input_len)} for _ in range(count)]


class Load:
    """Sends requests at given times and keeps what comes back. most_open: requests open at once, at the most."""

    def __init__(self, client: httpx.AsyncClient, max_concurrency: int | None) -> None:
        self.completions: list[Completion] = []
        self.most_open = 0
        self._client = client
        self._open = 0
        self._turn = asyncio.Semaphore(max_concurrency) if max_concurrency else contextlib.nullcontext()

    async def send(self, bodies: list[dict[str, Any]], times: list[float]) -> None:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for body, at in zip(bodies, times, strict=True):
                await asyncio.sleep(started + at - time.perf_counter())
                group.create_task(self._one(body))

    async def _one(self, body: dict[str, Any]) -> None:
        completion = Completion(Timeline(0.0))
        self.completions.append(completion)
        async with self._turn:
            self._open += 1
            self.most_open = max(self.most_open, self._open)
            await stream(self._client, body, completion)
            self._open -= 1


def _failures(timelines: list[Timeline]) -> dict[str, list[Row]]:
    reasons = [t.error for t in timelines if t.error]
    if not reasons:
        return {}
    counts = sorted(((reasons.count(r), r) for r in set(reasons)), reverse=True)
    return {"failed requests": [("reason", "requests"), *((reason, str(count)) for count, reason in counts[:5])]}
