"""What the clients ask: prompts of random ids, of which no two are the same, in a closed loop of some streams."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.peers.http.servers import MODEL
from benchmarks.stack.asking import PATH, post
from benchmarks.stack.load import Load

PROMPTS = 2048
"""More than any of the caches holds, should a load ever come round."""


def make_load(port: int, streams: int, *, tokens: tuple[int, int], ids: range, seed: str, **times: float) -> Load:
    """tokens: of a prompt and of its answer. ids: those that are drawn. times: seconds, `warmup` and `seconds`.

    The first answers are of many lengths, so that the streams are out of step when the measured time begins.
    """
    long, wanted = tokens
    generator = random.Random(f"{seed}-{streams}")

    def request(max_tokens: int) -> bytes:
        body: dict[str, Any] = {
            "model": MODEL,
            "prompt": generator.choices(ids, k=long),
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return post(PATH, body)

    first = [request(generator.randint(1, wanted)) for _ in range(streams)]
    requests = [request(wanted) for _ in range(PROMPTS)]
    return Load(port, "stream", streams, times["warmup"], times["seconds"], first, requests)
