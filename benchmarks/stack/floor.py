"""The floor: one process, one small Starlette app under uvicorn, that writes the bytes which the real server wrote.

It reads a request, looks at three of its fields, and writes the recorded events at the pace of the table engine. No
validation, no tokenizer, no other process: what is left is what HTTP in Python takes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

COUNT = b'"completion_tokens":%d'


class Recorded(msgspec.Struct):
    """events: of a stream, one a token. last: what comes behind them. whole: the answer that is no stream."""

    events: list[bytes]
    last: bytes
    whole: bytes


class Asked(msgspec.Struct):
    max_tokens: int
    seed: int = 0
    stream: bool = False


def create_app(recorded: Recorded) -> Starlette:
    async def completions(request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=Asked)
        pace = asked.seed / 1e6
        if asked.stream:
            return StreamingResponse(stream(asked.max_tokens, pace), media_type="text/event-stream")
        await asyncio.sleep(pace * asked.max_tokens)
        return Response(recorded.whole, media_type="application/json")

    async def stream(tokens: int, pace: float) -> AsyncIterator[bytes]:
        began, sent = time.perf_counter(), 0
        while sent < tokens:
            await asyncio.sleep(max(0.0, began + (sent + 1) * pace - time.perf_counter()))
            # Where it cannot keep the pace, it writes what is due in one piece.
            due = sent + 1 if not pace else min(tokens, max(sent + 1, int((time.perf_counter() - began) / pace)))
            yield b"".join(recorded.events[sent:due])
            sent = due
        yield recorded.last.replace(COUNT % len(recorded.events), COUNT % tokens)

    async def version(request: Request) -> Response:
        return JSONResponse({"version": "0"})

    return Starlette(
        routes=[Route("/v1/completions", completions, methods=["POST"]), Route("/version", version, methods=["GET"])]
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--recorded", type=Path, required=True)
    options = parser.parse_args()
    recorded = msgspec.json.decode(options.recorded.read_bytes(), type=Recorded)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list | None = None) -> None:
            await super().startup(sockets)
            print(READY, file=sys.stderr, flush=True)

    # as the product: a line of the log a request is no part of it
    config = uvicorn.Config(create_app(recorded), port=options.port, log_level="warning", access_log=False)
    Server(config).run()


READY = "Ready after"

if __name__ == "__main__":
    main()
