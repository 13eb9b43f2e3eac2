"""Those who ask a server during a drill: a process of its own, seeded, until it is ended.

What the server does about them, refusals and broken connections too, is for its metrics to tell; they go on.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import msgspec

from benchmarks.sources import source_files

SHOWS = "asking"
"""Printed when they begin."""

PERSON_CHARACTERS = (1500, 3500)
"""Of a file, as it grows under the hands of who types."""

TYPED_AT_ONCE = 12
TRIED_AGAIN_S = 0.2
ALPHABET = range(400, 420)
NOISE = range(300, 900)
MORE_TOKENS = 16


class Load(msgspec.Struct, frozen=True):
    """Clients of one kind.

    kind: people who type code; noise, of which nothing repeats; noise that is asked for twice, the second time with
    more behind it; or noise of 40 tokens alone, in prompt and answer, so that drafts are found all the time, and wrong.
    streams: open at once. pause_s: mean, of each between two requests.
    prompt_tokens: of noise. leaves: with the first piece of the answer.
    """

    kind: Literal["people", "noise", "twice", "misleading"]
    streams: int
    pause_s: float = 0.0
    prompt_tokens: int = 32
    max_tokens: int = 16
    leaves: bool = False


class Asking(msgspec.Struct, frozen=True):
    """What the process is told."""

    url: str
    load: Load
    seed: int


def bodies(load: Load, generator: random.Random) -> Iterator[dict[str, Any]]:
    """One client's requests for completions, without end."""
    common = {"max_tokens": load.max_tokens, "ignore_eos": True, "stream": True}
    for prompt in _typed(generator) if load.kind == "people" else _noise(load, generator):
        yield common | {"prompt": prompt} | (_MISLED if load.kind == "misleading" else {"temperature": 0})


_MISLED: dict[str, Any] = {
    "temperature": 2.0,
    "frequency_penalty": 2.0,
    "logit_bias": {str(token): 100 for token in ALPHABET},
}
"""A text of few tokens, which is all that it repeats: any two occurred before, and what followed them says nothing."""


def _typed(generator: random.Random) -> Iterator[str]:
    files = source_files(())
    first, last = PERSON_CHARACTERS
    while True:
        text = generator.choice(files).read_text()
        for end in range(first, last, TYPED_AT_ONCE):
            yield text[:end]


def _noise(load: Load, generator: random.Random) -> Iterator[list[int]]:
    tokens = ALPHABET if load.kind == "misleading" else NOISE
    while True:
        prompt = generator.choices(tokens, k=load.prompt_tokens)
        yield prompt
        if load.kind == "twice":
            yield prompt + generator.choices(tokens, k=MORE_TOKENS)


async def _ask(http: httpx.AsyncClient, load: Load, generator: random.Random) -> None:
    for body in bodies(load, generator):
        refused = False
        try:
            async with http.stream("POST", "/v1/completions", json=body) as answer:
                refused = answer.status_code != 200
                async for _ in answer.aiter_bytes():
                    if load.leaves:
                        break
        except httpx.HTTPError:
            refused = True
        await asyncio.sleep(_pause(load, generator) + (TRIED_AGAIN_S if refused else 0.0))


def _pause(load: Load, generator: random.Random) -> float:
    return generator.expovariate(1 / load.pause_s) if load.pause_s else 0.0


async def ask(asking: Asking) -> None:
    """Until it is cancelled."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with (
        httpx.AsyncClient(base_url=asking.url, timeout=120, limits=limits) as http,
        asyncio.TaskGroup() as group,
    ):
        for number in range(asking.load.streams):
            group.create_task(_ask(http, asking.load, random.Random(f"{asking.seed} {number}")))
        print(SHOWS, flush=True)


if __name__ == "__main__":
    asyncio.run(ask(msgspec.json.decode(sys.argv[1], type=Asking)))
