"""A client of OpenAI's completions that notes when each piece of a stream came."""

from __future__ import annotations

import argparse
import ipaddress
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.metrics import Timeline
from deployments.errors import words_of

PATH = "/v1/completions"


@dataclass
class Completion:
    """What came of one request: texts[i] came at timeline.pieces[i]. finished: the stream ended by itself."""

    timeline: Timeline
    texts: list[str] = field(default_factory=list)
    finished: bool = False

    @property
    def text(self) -> str:
        return "".join(self.texts)


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument("--url", default="http://127.0.0.1:8000", help="an OpenAI-compatible server")
    group.add_argument("--allow-remote", action="store_true", help="load a server that is not on this machine")
    group.add_argument("--served-model", help="`model` of the requests, where the server wants one")
    group.add_argument("--api-key")
    group.add_argument("--timeout", type=float, default=600.0, help="seconds a request may be silent")


def check_url(url: str, *, allow_remote: bool) -> None:
    """Raise ValueError unless the server is on this machine: load on somebody else's is an attack."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no http:// address of a server")
    if not allow_remote and not is_loopback(parts.hostname):
        raise ValueError(f"{parts.hostname} is not this machine; --allow-remote if its owner agrees to the load")


def is_loopback(host: str) -> bool:
    """`localhost` or a loopback address; no name is looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def connect(options: argparse.Namespace) -> httpx.AsyncClient:
    """A client with as many connections as requests are open. Raises ValueError for a server of somebody else."""
    check_url(options.url, allow_remote=options.allow_remote)
    return httpx.AsyncClient(
        base_url=options.url,
        headers={"authorization": f"Bearer {options.api_key}"} if options.api_key else {},
        timeout=httpx.Timeout(10, read=options.timeout, pool=None),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        trust_env=False,  # a proxy would be measured too
    )


async def check_server(client: httpx.AsyncClient) -> None:
    """Raise RuntimeError where nothing answers, so that a run of a thousand failures is one message."""
    try:
        response = await client.get("/v1/models")
    except httpx.HTTPError as error:
        raise RuntimeError(f"no server at {client.base_url}: {words_of(error)}") from error
    if response.status_code != 200:
        raise RuntimeError(f"{client.base_url} answers {PATH.rpartition('/')[0]}/models with {response.status_code}")


async def stream(
    client: httpx.AsyncClient, body: dict[str, Any], completion: Completion, session: str | None = None
) -> None:
    """Send one request and note what comes into `completion`, also if this is cancelled on the way.

    session: the editor's, for servers that know such a thing; others do not look at the header.
    Never raises for a failed request: `timeline.error` says why.
    """
    timeline = completion.timeline
    timeline.started = time.perf_counter()
    whole = {**body, "stream": True, "stream_options": {"include_usage": True}}
    headers = {"x-session-id": session} if session is not None else {}
    try:
        async with client.stream("POST", PATH, json=whole, headers=headers) as response:
            if response.status_code != 200:
                await response.aread()
                timeline.error = f"{response.status_code}: {response.text[:200]}"
                return
            async for line in response.aiter_lines():
                if line.startswith("data:") and not _take(line[5:].strip(), completion):
                    return
        if not completion.finished:
            timeline.error = "the stream ended early"
    except httpx.HTTPError as error:
        timeline.error = f"{type(error).__name__}: {error}"


def _take(data: str, completion: Completion) -> bool:
    """Note one event; False after the last one."""
    timeline = completion.timeline
    if data == "[DONE]":
        completion.finished = True
        return False
    now = time.perf_counter()
    chunk = json.loads(data)
    if "error" in chunk:
        timeline.error = str(chunk["error"].get("message", chunk["error"]))
        return False
    if choices := chunk.get("choices"):
        timeline.pieces.append(now)
        completion.texts.append(choices[0].get("text") or "")
    if usage := chunk.get("usage"):
        timeline.prompt_tokens = usage["prompt_tokens"]
        timeline.output_tokens = usage["completion_tokens"]
        details = usage.get("prompt_tokens_details") or {}
        timeline.cached_tokens = details.get("cached_tokens")
    return True
