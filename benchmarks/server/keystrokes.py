"""`python -m benchmarks keystrokes`: people who type, on a running server. What our users do all day.

Each editor opens a real source file, types some of its lines again at human speed (`benchmarks.server.typing_model`),
and asks for a completion at every pause: the text before the cursor is the prompt, the text after it the suffix.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks.metrics import distribution
from benchmarks.report import Result
from benchmarks.server.completions import add_server_arguments, check_server, connect
from benchmarks.server.editing import Asked, edit
from benchmarks.server.server_counters import Counters, growth, read_counters
from benchmarks.server.typing_model import Pause, TypingModel, keystrokes, pauses
from benchmarks.sources import Edit, choose_edit, source_files

PICTURE = "the distributions of what was observed"

IN_TIME_S = 1.0
"""So soon a line should be there, as `percent_line_in_time` counts it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="*", type=Path, help="files or folders (default: of the standard library)")
    parser.add_argument("--editors", type=int, default=8, help="people who type at once")
    parser.add_argument("--lines", type=int, default=12, help="lines that each of them types")
    parser.add_argument("--ramp", type=float, default=5.0, help="seconds over which they start")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--stop", action="append", default=[], help="stop string; may be given several times")
    parser.add_argument("--fim-mode", choices=("auto", "psm", "spm"), help="sent only if given")
    parser.add_argument("--prefix-lines", type=int, help="lines before the cursor that are sent (default: all)")
    parser.add_argument("--suffix-lines", type=int, help="lines after the cursor that are sent (default: all)")
    parser.add_argument(
        "--truncate", action=argparse.BooleanOptionalAction, default=True, help="let the server cut what does not fit"
    )
    parser.add_argument(
        "--session",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="name each editor's session to the server",
    )
    parser.add_argument("--cancel-on", choices=("request", "key"), default="request", help="when a request is given up")
    parser.add_argument("--speed", type=float, default=1.0, help="divides all times of the plan")
    parser.add_argument("--seed", type=int, default=0)
    model = parser.add_argument_group("how they type (seconds)")
    for name, value in asdict(TypingModel()).items():
        model.add_argument(f"--{name.replace('_', '-')}", type=float, default=value)
    add_server_arguments(parser)


def typing_model(options: argparse.Namespace) -> TypingModel:
    return TypingModel(**{name: getattr(options, name) for name in asdict(TypingModel())})


def plan_sessions(options: argparse.Namespace) -> list[tuple[Edit, list[Pause]]]:
    """What every editor will do, the same for the same options: its file, and its pauses from the start of the run."""
    if options.speed <= 0 or options.editors < 1 or options.lines < 1:
        raise ValueError("speed must be above 0, editors and lines at least 1")
    files = source_files(options.sources)
    model = typing_model(options)
    sessions = []
    for number in range(options.editors):
        path = files[number % len(files)]
        seed = f"{options.seed}-{number}"
        work = choose_edit(path.name, path.read_text(errors="replace"), options.lines, seed)
        begins = random.Random(f"{seed}-start").uniform(0, options.ramp)
        plan = pauses(keystrokes(work.typed, model, seed), model.debounce)
        sessions.append((work, [_moved(pause, begins, options.speed) for pause in plan]))
    return sessions


def _moved(pause: Pause, begins: float, speed: float) -> Pause:
    next_key = None if pause.next_key is None else (begins + pause.next_key) / speed
    return replace(pause, at=(begins + pause.at) / speed, next_key=next_key)


def digest(sessions: list[tuple[Edit, list[Pause]]]) -> str:
    """Equal for runs that did the same."""
    plain = [[asdict(work), [asdict(pause) for pause in plan]] for work, plan in sessions]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


def request_body(options: argparse.Namespace, work: Edit, typed: int, editor: int) -> dict[str, Any]:
    prefix, suffix = work.before + work.typed[:typed], work.after
    if options.prefix_lines is not None:
        prefix = "".join(prefix.splitlines(keepends=True)[-options.prefix_lines :])
    if options.suffix_lines is not None:
        suffix = "".join(suffix.splitlines(keepends=True)[: options.suffix_lines])
    optional = {
        "stop": options.stop or None,
        "fim_mode": options.fim_mode,
        "model": options.served_model,
        "truncate_prompt_tokens": -1 if options.truncate else None,
    }
    return {
        "prompt": prefix,
        "suffix": suffix,
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "user": f"editor-{editor}",
        **{name: value for name, value in optional.items() if value is not None},
    }


def run(options: argparse.Namespace) -> Result:
    return asyncio.run(measure(options))


async def measure(options: argparse.Namespace) -> Result:
    """Raises ValueError for a server of somebody else, RuntimeError where none answers or every request failed."""
    sessions = plan_sessions(options)
    async with connect(options) as client:
        await check_server(client)
        before = await _settled_counters(client)
        started = time.perf_counter()

        async def one(number: int) -> list[Asked]:
            work, plan = sessions[number]

            def body_at(typed: int) -> dict[str, Any]:
                return request_body(options, work, typed, number)

            session_id = f"editor-{number}" if options.session else None
            return await edit(
                client, plan, body_at, started=started, cancel_on=options.cancel_on, session_id=session_id
            )

        asked = [a for session in await asyncio.gather(*map(one, range(len(sessions)))) for a in session]
        duration = time.perf_counter() - started
        counted = growth(before, await _settled_counters(client))
    errors = [a.completion.timeline.error for a in asked if a.completion.timeline.error]
    if asked and len(errors) == len(asked):
        raise RuntimeError(f"every request failed; the first: {errors[0]}")
    hidden = ("run", "output", "plot", "command", "api_key", "url", "sources")
    settings = {k: v for k, v in vars(options).items() if k not in hidden}
    settings |= {"files": sorted({work.name for work, _ in sessions}), "schedule": digest(sessions)}
    return Result("keystrokes", settings, metrics(asked, duration, counted), samples=_samples(asked))


async def _settled_counters(client: httpx.AsyncClient, interval_s: float = 1.0) -> Counters | None:
    """The counters once they stand still: replicas report with a delay. At most some seconds."""
    last = await read_counters(client)
    for _ in range(10):
        if last is None:
            return None
        await asyncio.sleep(interval_s)
        now = await read_counters(client)
        if now == last:
            return now
        last = now
    return last


def _samples(asked: list[Asked]) -> dict[str, list[float]]:
    """Requests cut off before their first token, or their first line, have none and are counted instead."""
    answered = [a for a in asked if a.completion.timeline.completed]
    lines = [(a.first_line_at, a.completion.timeline.started) for a in answered]
    return {
        "ttft": [a.completion.timeline.ttft for a in answered],
        "time_to_first_line": [at - began for at, began in lines if at is not None],
    }


def metrics(asked: list[Asked], duration: float, counted: dict[str, float]) -> dict[str, Any]:
    """counted: growth of the server's counters, which also know tokens and hits of cancelled requests; may be empty."""
    found: dict[str, Any] = {
        "requests": len(asked),
        "duration": duration,
        "finished": sum(a.completion.finished for a in asked),
        "superseded": sum(a.superseded for a in asked),
        "superseded_before_first_token": sum(a.superseded and not a.completion.timeline.pieces for a in asked),
        "failed": sum(a.completion.timeline.error is not None for a in asked),
        "percent_line_in_time": _percent(a.line_within(IN_TIME_S) for a in asked),
        "percent_shown": _percent(a.shown for a in asked),
    }
    for name, values in _samples(asked).items():
        found |= distribution(name, values)
    known = [a for a in asked if a.completion.timeline.cached_tokens is not None]
    found["prompt_tokens_of_finished"] = sum(a.completion.timeline.prompt_tokens for a in known)
    found["percent_prompt_cached"] = _percent_cached(known)
    found["percent_prompt_cached_after_first"] = _percent_cached([a for a in known if not a.first])
    if queries := counted.get("prefix_cache_queries_total"):
        found["percent_prompt_cached_server"] = 100 * counted.get("prefix_cache_hits_total", 0.0) / queries
    received, shown = sum(a.received_tokens for a in asked), sum(a.shown_tokens for a in asked)
    generated = max(counted.get("generation_tokens_total", 0.0), received)
    found["tokens_generated"] = round(generated)
    found["tokens_counted_by"] = "server" if "generation_tokens_total" in counted else "client"
    found["tokens_never_shown"] = round(generated - shown)
    found["percent_tokens_never_shown"] = 100 * (generated - shown) / generated if generated else 0.0
    return found


def _percent(holds: Iterable[bool]) -> float:
    found = list(holds)
    return 100 * sum(found) / len(found) if found else 0.0


def _percent_cached(asked: list[Asked]) -> float | None:
    prompt = sum(a.completion.timeline.prompt_tokens for a in asked)
    cached = sum(a.completion.timeline.cached_tokens or 0 for a in asked)
    return 100 * cached / prompt if prompt else None
