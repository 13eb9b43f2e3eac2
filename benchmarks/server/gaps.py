"""`python -m benchmarks gaps`: everyday gaps, asked of a running server as an editor asks, and what it fills in."""

from __future__ import annotations

import argparse
import asyncio

import httpx

from benchmarks.report import Result, Row
from benchmarks.server.completions import PATH, add_server_arguments, check_server, connect
from model.pico.gaps import GAPS, Gap, right

MODE = "auto"
MAX_TOKENS = 64
_WIDTH = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_server_arguments(parser)


def run(options: argparse.Namespace) -> Result:
    return asyncio.run(measure(options))


async def measure(options: argparse.Namespace) -> Result:
    """Raises ValueError for a server of somebody else, RuntimeError where none answers or one refuses."""
    async with connect(options) as client:
        await check_server(client)
        version = (await client.get("/version")).json()
        (model, *_) = (await client.get("/v1/models")).json()["data"]
        answers = await fill(client, options.served_model)
    good = [right(gap, answer) for gap, answer in zip(GAPS, answers, strict=True)]
    found = list(zip(GAPS, answers, good, strict=True))
    rows: list[Row] = [("gap", "answer", "as expected")]
    rows += [(_shown(gap), text.split("\n")[0][:_WIDTH], "yes" if fits else "no") for gap, text, fits in found]
    return Result(
        "gaps",
        {"model": model["id"], "forward": version["forward"], "completion_mode": MODE, "max_tokens": MAX_TOKENS},
        {"right": sum(good), "of": len(GAPS)},
        tables={"answers": rows},
        details=[
            {"prefix": gap.prefix, "suffix": gap.suffix, "answer": text, "right": fits} for gap, text, fits in found
        ],
    )


async def fill(client: httpx.AsyncClient, model: str | None = None) -> list[str]:
    """Greedy answers to `GAPS`, all asked at once. Raises RuntimeError where one is refused."""
    named = {} if model is None else {"model": model}
    wanted = {"max_tokens": MAX_TOKENS, "temperature": 0, "completion_mode": MODE, **named}
    bodies = [{"prompt": gap.prefix, "suffix": gap.suffix, **wanted} for gap in GAPS]
    return [_text(response) for response in await asyncio.gather(*(client.post(PATH, json=body) for body in bodies))]


def _text(response: httpx.Response) -> str:
    if response.status_code != 200:
        raise RuntimeError(f"a gap is answered with {response.status_code}: {response.text}")
    text: str = response.json()["choices"][0]["text"]
    return text


def _shown(gap: Gap) -> str:
    """The line of the cursor, or the one that it begins, and of what is behind it the first."""
    before, behind = gap.prefix.rpartition("\n")[2], gap.suffix.strip("\n").split("\n")[0]
    return f"{before}‸{behind}"[:_WIDTH]
