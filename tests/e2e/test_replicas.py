"""Two engines, of which load has started the second: prefixes stay where they are cached."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


def test_load_starts_a_second_engine(pair: Cluster) -> None:
    """Serve took the scaling policy, and had no reason to start a third."""
    assert pair.settled_pids("RankProcess", 2)


def complete(cluster: Cluster, prompt: list[int], max_tokens: int = 2) -> int:
    """Prompt tokens that came from the cache."""
    body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    answer = httpx.post(f"{cluster.url}/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_a_growing_prompt_always_finds_its_cache(pair: Cluster) -> None:
    """As somebody types: by chance alone, half of these would meet the other replica, which knows nothing."""
    for document in range(4):
        prompt = [100 + document] * 64
        assert complete(pair, prompt) == 0
        for _ in range(4):
            prompt = [*prompt, *range(50, 66)]
            assert complete(pair, prompt) >= len(prompt) - 32


def test_one_popular_prefix_does_not_overload_its_replica(pair: Cluster) -> None:
    """With the prefix's replica busy, the rest goes to the other one, which has to compute the prefix once."""
    assert any(spreads(pair, [77 + number] * 64) for number in range(10)), "nothing went to the other one"


def spreads(pair: Cluster, prompt: list[int]) -> bool:
    """Whether the other replica got some. Clients that come late, on a busy machine, find the first one free again."""
    complete(pair, prompt)
    with ThreadPoolExecutor(12) as pool:
        cached = list(pool.map(lambda n: complete(pair, [*prompt, n], max_tokens=400), range(12)))
    assert cached.count(64) >= 2
    return 0 in cached


def test_the_requests_of_a_session_meet_in_one_replica(pair: Cluster) -> None:
    """By chance alone, two in four would not. What was predicted and then typed is answered from memory.

    A quick engine may have said all before the newer request comes: then there is nothing to supersede.
    """
    options = {"temperature": 0, "ignore_eos": True}
    superseded = 0
    for number in range(4):
        headers, prompt = {"x-session-id": f"window-{number}"}, f"def f{number}("
        older_body = {"prompt": prompt, "max_tokens": 1900, "stream": True, **options}
        ids = [f"session-{number}-{age}" for age in ("older", "newer")]
        with (
            httpx.Client(base_url=pair.url, headers=headers, timeout=120) as client,
            client.stream("POST", "/v1/completions", json=older_body, headers={"x-request-id": ids[0]}) as older,
        ):
            choices = (json.loads(line[6:])["choices"][0] for line in older.iter_lines() if line.startswith("data: {"))
            said = ""
            while len(said) < 8:
                said += next(choices)["text"]
            body = {"prompt": prompt + said[:3], "max_tokens": 40, **options}
            newer = client.post("/v1/completions", json=body, headers={"x-request-id": ids[1]}).json()
            rest = list(choices)
        wait_until(lambda ids=ids: all(engine_of(pair, id) for id in ids), "a request has no line")
        assert engine_of(pair, ids[0]) == engine_of(pair, ids[1])
        assert newer["choices"][0]["finish_reason"] == "length"
        assert newer["usage"]["completion_tokens"] == 40
        if rest[-1]["finish_reason"] == "stop":
            superseded += 1
            assert rest[-1]["ended_by"] == "superseded"
            text, known = newer["choices"][0]["text"], said[3:]  # a first message may hold more than 40 tokens
            assert text.startswith(known) or known.startswith(text)
            assert newer["usage"]["prompt_tokens_details"]["cached_tokens"] == newer["usage"]["prompt_tokens"]
    assert superseded


def engine_of(cluster: Cluster, request_id: str) -> str | None:
    """The replica that answered, as the request's line in the log says."""
    return next((line.get("engine") for line in cluster.lines("request") if line["request_id"] == request_id), None)
