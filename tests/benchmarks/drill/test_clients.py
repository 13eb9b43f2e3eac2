"""Those who ask during a drill, on the real front before a fake backend."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from typing import Any

import pytest

from benchmarks.drill import clients
from benchmarks.drill.clients import ALPHABET, MORE_TOKENS, Asking, Load, ask, bodies
from tests.support.fake_backend import FakeBackend
from tests.support.waiting import eventually

KINDS = ("people", "noise", "twice", "misleading")


def some(load: Load, seed: int = 0, count: int = 4) -> list[dict[str, Any]]:
    return list(itertools.islice(bodies(load, random.Random(seed)), count))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_asks_the_same(kind: Any) -> None:
    load = Load(kind, streams=1, max_tokens=7)
    assert some(load) == some(load) != some(load, seed=1)
    assert all(body["max_tokens"] == 7 and body["stream"] for body in some(load))


def test_people_type_on() -> None:
    first, second, *_ = (body["prompt"] for body in some(Load("people", streams=1)))
    assert len(second) > len(first)
    assert second.startswith(first)


def test_what_is_asked_twice_is_longer_the_second_time() -> None:
    prompts = [body["prompt"] for body in some(Load("twice", streams=1, prompt_tokens=50))]
    assert [len(prompt) for prompt in prompts] == [50, 50 + MORE_TOKENS] * 2
    assert prompts[1][:50] == prompts[0]
    assert prompts[2] != prompts[0]


def test_what_misleads_stays_in_its_alphabet() -> None:
    body = some(Load("misleading", streams=1, prompt_tokens=500))[0]
    assert set(body["prompt"]) <= set(ALPHABET) == set(map(int, body["logit_bias"]))


@pytest.mark.parametrize("leaves", [True, False])
async def test_they_ask_until_they_are_ended(url: str, fake_backend: FakeBackend, leaves: bool) -> None:
    load = Load("noise", streams=2, prompt_tokens=8, max_tokens=4, leaves=leaves)
    asking = asyncio.create_task(ask(Asking(url, load, seed=0)))
    await eventually(lambda: len(fake_backend.requests) > 6)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking


async def test_a_server_that_is_not_there_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "TRIED_AGAIN_S", 0.0)
    asked: list[int] = []

    def count(load: Load, generator: random.Random) -> Any:
        for body in bodies(load, generator):
            asked.append(len(asked))
            yield body

    monkeypatch.setattr(clients, "bodies", count, raising=True)
    asking = asyncio.create_task(ask(Asking("http://127.0.0.1:1", Load("noise", streams=1), seed=0)))
    await eventually(lambda: len(asked) > 3)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
