"""Servers that are busy, refuse, or know less than ours."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from benchmarks.quality.asking import RENDER, Server, TooLong, asked_pause
from benchmarks.quality.own.asking import AROUND_GAPS
from benchmarks.quality.protocols.registry import PROTOCOLS
from benchmarks.quality.record import Sample
from benchmarks.quality.sampling import Drawing, missing, sample
from tests.support.made_up_benchmarks import FIM, HUMANEVAL

Answer = Callable[[httpx.Request], httpx.Response]
COMPLETION = {"choices": [{"index": 0, "text": "x"}], "usage": {"prompt_tokens": 5}}


def server(
    *answers: Answer | httpx.Response, patience_s: float = 60, **options: Any
) -> tuple[Server, list[dict[str, Any]]]:
    """One that answers in this order, and what it was asked."""
    waiting, asked = iter(answers), list[dict[str, Any]]()

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append({"path": request.url.path, **json.loads(request.content)})
        answer = next(waiting)
        return answer(request) if callable(answer) else answer

    client = httpx.AsyncClient(base_url="http://test", transport=httpx.MockTransport(handle))
    return Server(client, "nano", patience_s, **options), asked


def lost(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


async def test_who_is_busy_is_asked_again_when_it_says() -> None:
    one, asked = server(
        httpx.Response(429, headers={"retry-after-ms": "0", "retry-after": "0.001"}),
        httpx.Response(503, headers={"retry-after-ms": "1", "retry-after": "1000"}),
        httpx.Response(200, json=COMPLETION),
    )
    assert (await one.complete({"prompt": "a"}))["choices"][0]["text"] == "x"
    assert len(asked) == 3


async def test_time_is_that_of_the_attempt_that_was_answered() -> None:
    """Not of those before, and not of waiting: no GPU worked then."""
    began = time.time()
    busy = httpx.Response(503, headers={"retry-after": "0.2"})
    one, _ = server(busy, httpx.Response(200, json=COMPLETION))
    found = await one.timed({"prompt": "a"})
    assert began + 0.15 <= found.began <= found.ended <= time.time()
    assert found.answer == COMPLETION


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(429, headers={"x-should-retry": "false"}), httpx.Response(401), httpx.Response(404)],
)
async def test_who_refuses_for_good_is_asked_once(answer: httpx.Response) -> None:
    one, asked = server(answer)
    with pytest.raises(RuntimeError, match=f"refuses: {answer.status_code}"):
        await one.complete({"prompt": "a"})
    assert len(asked) == 1


async def test_patience_ends() -> None:
    one, asked = server(lost, patience_s=0.5)
    with pytest.raises(RuntimeError, match="does not answer: ConnectError: refused"):
        await one.complete({"prompt": "a"})
    assert len(asked) == 1
    one, _ = server(httpx.Response(503, headers={"retry-after": "3600"}, text="starting"))
    with pytest.raises(RuntimeError, match="503: starting"):
        await one.complete({"prompt": "a"})


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after-ms": "50"}, 0.05),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Fri, 27 Nov 2026 12:00:00 GMT"}, None),
        ({}, None),
    ],
)
def test_what_pause_is_asked_for(headers: dict[str, str], pause: float | None) -> None:
    assert asked_pause(headers) == pause


async def test_a_server_that_shows_prompts_is_asked_for_their_length() -> None:
    ours = {"object": "text_completion.rendering", "token_ids": [1, 2, 3], "remaining_tokens": 97}
    one, asked = server(
        httpx.Response(200, json=ours), httpx.Response(200, json=ours), httpx.Response(200, json=COMPLETION)
    )
    await one.look()
    assert await one.room({"prompt": "a"}) == (3, 97)
    await one.complete({"prompt": "a", "suffix": "b"})
    assert [ask["path"] for ask in asked[:2]] == [RENDER, RENDER]
    assert {"priority": 1, "fim_mode": "psm", "model": "nano"}.items() <= asked[2].items()


async def test_what_goes_with_gaps_may_be_something_else() -> None:
    ours = httpx.Response(200, json={"object": "text_completion.rendering", "token_ids": [], "remaining_tokens": 1})
    fine = (httpx.Response(200, json=COMPLETION), httpx.Response(200, json=COMPLETION))
    one, asked = server(ours, *fine, around_gaps=AROUND_GAPS)
    await one.look()
    await one.complete({"prompt": "a", "suffix": ""})
    await one.complete({"prompt": "a"})
    assert asked[1].items() >= {"truncate_prompt_tokens": -1, "priority": 1}.items()
    assert "fim_mode" not in asked[1]
    assert "truncate_prompt_tokens" not in asked[2]


@pytest.mark.parametrize("answer", [httpx.Response(404), httpx.Response(200, json=[{"token_ids": [1]}])])
async def test_of_another_server_nothing_of_ours_is_asked(answer: httpx.Response) -> None:
    one, asked = server(answer, httpx.Response(200, json=COMPLETION), httpx.Response(200, json=COMPLETION))
    await one.look()
    assert await one.room({"prompt": "a"}) == (5, None)
    await one.complete({"prompt": "a", "suffix": "b"})
    assert asked[1] == {"path": "/v1/completions", "model": "nano", "prompt": "a", "max_tokens": 1}
    assert asked[2] == {"path": "/v1/completions", "model": "nano", "prompt": "a", "suffix": "b"}


async def test_what_does_not_fit_is_told_apart() -> None:
    one, _ = server(httpx.Response(400, json={"error": {"code": "context_length_exceeded"}}))
    with pytest.raises(TooLong):
        await one.complete({"prompt": "a"})


DRAWING = Drawing(samples=2, choices=2, requests=1, seed=0, temperature=0.2, top_p=0.95)


async def test_what_came_before_a_refusal_is_kept() -> None:
    """Answers stand where their numbers say, cut at the first stop."""
    choices = [{"index": 1, "text": "1 + 1<|filename|>x"}, {"index": 0, "text": "2"}]
    one, asked = server(httpx.Response(200, json={"choices": choices}), httpx.Response(400))
    protocol, came = PROTOCOLS["fim"], list[Sample]()
    asks = missing(protocol.problems(FIM), DRAWING, lambda key: False)
    with pytest.raises(RuntimeError, match="refuses: 400"):
        await sample(one, protocol, DRAWING, asks, came.extend)
    assert came == [Sample("f/0", 0, "2"), Sample("f/0", 1, "1 + 1")]
    assert len(asked) == 2


async def test_fewer_answers_than_asked_for_are_not_taken_for_empty_ones() -> None:
    one, _ = server(httpx.Response(200, json={"choices": [{"index": 0, "text": "1 + 1"}]}))
    protocol, came = PROTOCOLS["fim"], list[Sample]()
    asks = missing(protocol.problems(FIM), DRAWING, lambda key: False)
    with pytest.raises(RuntimeError, match="asked for 2 answers and gave 1: try --choices 1"):
        await sample(one, protocol, DRAWING, asks, came.extend)
    assert came == []


async def test_a_prompt_without_room_has_empty_answers() -> None:
    """As the published figures count it; of one that the window does not take, nothing else is asked."""
    protocol, came = PROTOCOLS["humaneval"], list[Sample]()
    problem = protocol.problems(HUMANEVAL)[0]
    full = httpx.Response(200, json={**COMPLETION, "usage": {"prompt_tokens": 512}})
    for answer in (full, httpx.Response(400, json={"error": {"code": "context_length_exceeded"}})):
        one, asked = server(answer)
        await sample(one, protocol, DRAWING, missing([problem], DRAWING, lambda key: False), came.extend)
        assert [ask["max_tokens"] for ask in asked] == [1]
    assert {found.completion for found in came} == {""}
