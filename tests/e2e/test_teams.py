"""Teams on a real server with two ingresses: from the first key to the bill, and without a leak."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from tests.support.administered import Administered
from tests.support.servers import PLACES
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.e2e

PRICE = 315_000  # picodollars a token, by default
FLOOD_TOKENS = 200
"""Of each request of a team that fills them: whoever else asks waits for the end of one that runs."""


def test_from_the_first_key_to_the_bill(closed: Administered) -> None:
    assert closed.ask(closed.keys[0]).status_code == 403, "administrators' keys run no completions"

    red = closed.team("red", "--rpm", "100")
    tokens, requests = 0, 1  # the one that is streamed below

    def counts_with_the_other() -> bool:
        """An ingress that has just started may count its half alone for a moment."""
        nonlocal tokens, requests
        answer = closed.ask(red)
        assert answer.status_code == 200, answer.text
        tokens += answer.json()["usage"]["total_tokens"]
        requests += 1
        return answer.headers["x-ratelimit-limit-requests"] == "100"

    wait_until(counts_with_the_other, "it counts alone", period_s=2.0)

    client = openai.OpenAI(base_url=f"{closed.cluster.url}/v1", api_key=red)
    streamed = client.completions.create(model=closed.cluster.name, prompt="x", max_tokens=3, stream=True)
    said = list(streamed)
    assert said[-1].choices[0].finish_reason in ("length", "stop")

    def booked() -> bool:
        return [row.requests for row in closed.usage("team", "red")] == [requests]

    wait_until(booked, "it is not booked")
    (row,) = closed.usage("team", "red")
    assert row.tokens > tokens
    assert row.cost == row.tokens * PRICE


def test_a_hard_budget_holds_for_two_hundred_at_once(closed: Administered) -> None:
    """Two ingresses count in one book: of 200 at once, no more get through than the budget has worst cases for."""
    worst = 10  # tokens: at most 6 of the prompt and 4 generated
    dollars = f"{10 * worst * PRICE / 10**12:.12f}"
    poor = closed.team("poor", "--budget-usd", dollars, "--hard")
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: closed.ask(poor), range(200)))
    passed = [answer for answer in answers if answer.status_code == 200]
    assert passed
    assert sum(answer.json()["usage"]["total_tokens"] for answer in passed) <= 10 * worst
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"
    spent = sum(answer.json()["usage"]["total_tokens"] for answer in passed) * PRICE

    def booked() -> bool:
        return [row.cost for row in closed.usage("team", "poor")] == [spent]

    wait_until(booked, "the ledger is not what was computed")


def test_another_teams_prefix_is_not_found(closed: Administered) -> None:
    prompt = list(range(200, 264))

    def cached(key: str) -> int:
        answer = closed.ask(key, prompt=prompt)
        assert answer.status_code == 200, answer.text
        return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    green, blue = closed.team("green"), closed.team("blue")
    assert cached(green) == 0
    assert cached(blue) == 0
    assert cached(green) >= 48
    assert cached(blue) >= 48


def test_a_queue_that_one_team_fills_has_room_for_another(closed: Administered) -> None:
    flood, idle = closed.team("flood"), closed.team("idle")
    refused = asyncio.Event()

    async def answers() -> list[int]:
        """Of the idle team, while the queue is full of the other one's."""

        async def ask(key: str, max_tokens: int) -> int:
            body = {"prompt": "x", "max_tokens": max_tokens, "ignore_eos": True}
            headers = {"authorization": f"Bearer {key}"}
            return (await client.post("/v1/completions", json=body, headers=headers)).status_code

        async def ask_again() -> None:
            while True:
                if await ask(flood, FLOOD_TOKENS) == 429:
                    refused.set()

        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=closed.cluster.url, timeout=None, limits=limits) as client:
            flooding = [asyncio.create_task(ask_again()) for _ in range(PLACES + 4)]
            found = []
            for _ in range(5):
                refused.clear()
                await asyncio.wait_for(refused.wait(), PATIENCE_S)  # the queue is full now
                found.append(await asyncio.wait_for(ask(idle, 1), PATIENCE_S))
            for each in flooding:
                each.cancel()
            await asyncio.gather(*flooding, return_exceptions=True)
            return found

    assert asyncio.run(answers()) == [200] * 5


def test_a_revoked_key_gets_in_no_more(closed: Administered) -> None:
    kept = closed.team("two-keys")
    arguments = ("--team", "two-keys", "--name", "gone")
    key = closed.key(*arguments, STARCODER_URL=closed.cluster.url, STARCODER_ADMIN_KEY=closed.keys[0])
    assert closed.ask(key).status_code == 200
    listed = json.loads(closed.administer("keys", "list", "--json"))
    (known,) = (each for each in listed if each["name"] == "gone")
    assert known["last_four"] == key[-4:]
    closed.administer("keys", "revoke", known["id"])
    wait_until(lambda: closed.ask(key).status_code == 401, "it still gets in")
    assert closed.ask(kept).status_code == 200


@pytest.mark.last
def test_no_key_is_anywhere(closed: Administered) -> None:
    """In no line of the log, and in no file of the database, the journal and the metrics: whatever the others did."""
    assert closed.ask(closed.team("discreet")).status_code == 200
    assert closed.files_with_a_key() == []
