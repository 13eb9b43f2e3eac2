"""`starcoder status`: how a running server is, in words or as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import httpx
from pydantic import ValidationError

from deployments.api.common.health_answer import EngineState, Health, IngressState
from deployments.api.operations import Version
from deployments.command.complete import DEFAULT_URL
from deployments.command.connection import URL_VARIABLE, url_given
from deployments.command.tables import table
from deployments.errors import words_of
from deployments.options import OptionParser

TIMEOUT = httpx.Timeout(10, read=90)
"""A server without an engine waits for one to take its question."""

_SAID = {"ok": "ready", "draining": "draining: it is about to stop", "unavailable": "no engine is ready"}


def parser() -> OptionParser:
    parser = OptionParser(
        "starcoder status",
        "How a running server is: its engines and ingresses, what waits, whether it drains, which version runs.",
        epilog="Ends with 0 where requests are answered, else with 1. Asks for no key.",
    )
    parser.add_argument("--url", metavar="URL", help=f"server (default: {URL_VARIABLE}, else {DEFAULT_URL})")
    parser.add_argument("--json", action="store_true", help="what the server answers, in one JSON object")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Raises ConfigError, and RuntimeError where no server of ours answers."""
    options = parser().parse_args(list(arguments))
    url = url_given(options) or DEFAULT_URL
    with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        answered, version = _ask(client, "/health"), _ask(client, "/version")
    try:
        health, of = Health.model_validate(answered), Version.model_validate(version)
    except ValidationError:
        raise RuntimeError(f"{url} does not answer as this program's server does: {_error(answered)}") from None
    if options.json:
        print(json.dumps({"url": url, **answered, "version": version}))
    else:
        sys.stdout.write(told(url, health, of, _error(answered), time.time()))
    return 0 if health.status == "ok" else 1


def _ask(client: httpx.Client, path: str) -> dict[str, Any]:
    try:
        answer = client.get(path).json()
    except httpx.HTTPError as error:
        raise RuntimeError(f"no server at {client.base_url}: {words_of(error)}") from error
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {}


def _error(answer: dict[str, Any]) -> str | None:
    error = answer.get("error")
    return str(error.get("message")) if isinstance(error, dict) else None


def told(url: str, health: Health, version: Version, reason: str | None, now: float) -> str:
    """For people. reason: why it is not ready. now: Unix seconds."""
    ready = sum(engine.state == "ready" for engine in health.engines)
    forward = "" if version.forward is None else f", forward pass: {version.forward.path}"
    lines = [
        f"{url}: {_SAID[health.status]}",
        *([f"  {reason}"] if reason else []),
        f"version {version.version}{forward}",
        f"queue: {health.running} running, {health.waiting} waiting; cache in use: {health.kv_cache_usage:.0%}",
    ]
    if health.engines:
        lines += ["", f"{ready} of {len(health.engines)} engines ready", _engines(health.engines, now)]
    if health.ingresses:
        lines += ["", _ingresses(health.ingresses, now)]
    others = {engine.version for engine in health.engines if engine.version not in (None, version.version)}
    if others:
        lines += ["", f"Engines run other versions than who answered: {', '.join(sorted(map(str, others)))}"]
    return "\n".join(lines) + "\n"


def _engines(engines: Sequence[EngineState], now: float) -> str:
    headings = ["engine", "state", "for", "running", "waiting", "cache", "answered in", ""]
    rows = [
        [
            *(engine.id, engine.state, ago(now - engine.since)),
            *(_cells(engine) if engine.state == "ready" else ("", "", "", "")),
            engine.reason or "",
        ]
        for engine in engines
    ]
    return table(headings, rows, numbers=range(2, 7))


def _cells(engine: EngineState) -> tuple[str, ...]:
    beat = "" if engine.heartbeat_seconds is None else f"{engine.heartbeat_seconds * 1000:.0f} ms"
    return str(engine.running), str(engine.waiting), f"{engine.kv_cache_usage:.0%}", beat


def _ingresses(ingresses: Sequence[IngressState], now: float) -> str:
    rows = [[ingress.id, ingress.state, ago(now - ingress.since)] for ingress in ingresses]
    return table(["ingress", "state", "for"], rows, numbers=[2])


def ago(seconds: float) -> str:
    """So long, in its two largest units."""
    whole = max(0, round(seconds))
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
