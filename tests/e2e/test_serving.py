"""Real Ray, real HTTP, two ranks: what a client sees."""

from __future__ import annotations

import asyncio
import functools
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from deployments.command.processes import command_line
from model.config import EngineConfig
from model.request import Request, SamplingParams
from model.text.prompts import Raw
from model.text.tokenizer import Tokenizer
from tests.support.cluster import LONG, Cluster
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.e2e

PROMPT = "def wrap(text, width=70):\n    return"


@pytest.fixture
def sdk(cluster: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", timeout=120, max_retries=0)


def long_request(cluster: Cluster, **fields: object) -> dict[str, object]:
    return {"model": cluster.name, "prompt": PROMPT, "stream": True, **LONG, **fields}


def test_healthy_from_a_heartbeat_of_both_ranks(cluster: Cluster) -> None:
    health = cluster.health()
    assert health is not None
    assert health["status"] == "ok"
    (engine,), (ingress,) = health["engines"], health["ingresses"]
    assert (engine["id"], engine["state"]) == (cluster.lines("engine.ready")[-1]["replica"], "ready")
    assert ingress["state"] == "ready"
    assert 0 < time.time() - engine["since"] < 3600
    assert len(cluster.pids("RankProcess")) == 2
    assert httpx.get(f"{cluster.url}/-/healthz", timeout=120).status_code == 200


def test_model_is_described(cluster: Cluster, sdk: openai.OpenAI) -> None:
    (model,) = sdk.models.list().data
    assert model.id == cluster.name
    assert model.model_extra is not None
    assert model.model_extra["max_model_len"] == 2048


def test_greedy_text_equals_one_rank_without_ray(cluster: Cluster, sdk: openai.OpenAI, tiny_checkpoint: Path) -> None:
    from model.process.rank import Rank

    rank = Rank(EngineConfig(model=str(tiny_checkpoint), dtype="float32", device="cpu", num_threads=1))
    rank.load()
    engine = rank.engine()
    tokenizer = Tokenizer.from_checkpoint(tiny_checkpoint)
    engine.add(Request("r", Raw().encode(tokenizer, PROMPT), SamplingParams(max_tokens=64, temperature=0)))
    ids: list[int] = []
    while engine.has_work():
        ids += [id for output in engine.step() for id in output.token_ids]
    completion = sdk.completions.create(model=cluster.name, prompt=PROMPT, max_tokens=64, temperature=0)
    assert len(ids) > 10
    assert completion.choices[0].text == tokenizer.decode(ids)


def test_stream_says_what_the_whole_says(cluster: Cluster, sdk: openai.OpenAI) -> None:
    options = {"model": cluster.name, "prompt": PROMPT, "max_tokens": 100, "temperature": 0}
    whole = sdk.completions.create(**options)  # type: ignore[call-overload]
    chunks = list(sdk.completions.create(**options, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len(chunks) > 3


def test_suffix_is_infilled(cluster: Cluster, sdk: openai.OpenAI, tiny_checkpoint: Path) -> None:
    """The server renders the FIM prompt: the same ids sent by hand give the same text."""
    tokenizer = Tokenizer.from_checkpoint(tiny_checkpoint)
    assert tokenizer.fim is not None
    prefix, suffix = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))"
    fim = tokenizer.fim
    by_hand = [fim.prefix, fim.suffix, *tokenizer.encode(suffix), fim.middle, *tokenizer.encode(prefix)]
    options = {"model": cluster.name, "max_tokens": 24, "temperature": 0}
    infilled = sdk.completions.create(prompt=prefix, suffix=suffix, **options)  # type: ignore[call-overload]
    expected = sdk.completions.create(prompt=by_hand, **options)  # type: ignore[call-overload]
    assert infilled.choices[0].text == expected.choices[0].text
    assert infilled.usage.prompt_tokens == len(by_hand)


def test_several_prompts_and_choices(cluster: Cluster, sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(
        model=cluster.name, prompt=["import os", "class A:"], n=2, max_tokens=8, temperature=0.8, seed=1, logprobs=2
    )
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.tokens
        assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs or [])


def test_bad_input_is_a_clear_error(cluster: Cluster, sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.completions.create(model=cluster.name, prompt=[10**9], max_tokens=1)
    assert refused.value.body is not None
    with pytest.raises(openai.NotFoundError):
        sdk.completions.create(model="gpt-4", prompt="x", max_tokens=1)
    assert cluster.health() is not None


def test_a_client_that_goes_away_leaves_the_batch(cluster: Cluster) -> None:
    """It goes after the first piece at once."""
    settled(cluster)
    before, limit = counted(cluster, "starcoder_generation_tokens_total"), LONG["max_tokens"]
    cancelled = counted(cluster, "starcoder_requests_cancelled_total")
    body = long_request(cluster)
    with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body, timeout=120) as response:
        assert next(response.iter_lines()).startswith("data: ")
    # What `/health` says is as old as the last heartbeat: it may not know of the sequence yet.
    wait_until(lambda: counted(cluster, "starcoder_requests_cancelled_total") == cancelled + 1, "nothing was cancelled")
    wait_until(lambda: (cluster.health() or {}).get("running") == 0, "the sequence stays")
    generated = counted(cluster, "starcoder_generation_tokens_total") - before
    print(f"left the batch after {generated:.0f} of {limit} tokens")
    assert generated < limit


async def test_a_full_queue_sheds_with_retry_after(cluster: Cluster) -> None:
    """4 run and 4 wait; the ninth is refused at once, and the others are not disturbed.

    On a machine that does other things, the first may be done before the ninth comes: then once more.
    """
    async with httpx.AsyncClient(base_url=cluster.url, timeout=PATIENCE_S) as client:
        for _ in range(5):
            if (refused := await the_ninth(client, cluster)).status_code == 429:
                break
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["type"] == "rate_limit_error"


async def the_ninth(client: httpx.AsyncClient, cluster: Cluster) -> httpx.Response:
    """Its answer, while eight others are in the engine and its queue, where they are left."""

    async def run(begun: asyncio.Semaphore) -> None:
        body = long_request(cluster, max_tokens=600)  # those that wait begin when others have ended
        async with client.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                assert '"error":' not in line  # a text of noise may well be "error"
                begun.release()

    def taken() -> bool:
        health = cluster.health()
        return health is not None and health["running"] + health["waiting"] == 8

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        begun = [asyncio.Semaphore(0) for _ in range(8)]
        others = [group.create_task(run(one)) for one in begun]
        await asyncio.to_thread(wait_until, lambda: taken() or any(other.done() for other in others))
        answer = await client.post("/v1/completions", json=long_request(cluster, stream=False, max_tokens=1))
        if answer.status_code == 429:
            assert any(not other.done() for other in others), "it was not refused at once"
        await asyncio.gather(*(one.acquire() for one in begun))
        for other in others:
            other.cancel()
    settled(cluster)
    return answer


def settled(cluster: Cluster) -> None:
    """What earlier tests have asked for is done, and counted."""
    kept = ("starcoder_num_requests_running", "starcoder_num_requests_waiting")
    wait_until(lambda: not any(counted(cluster, name) for name in kept), "something still runs")


def counted(cluster: Cluster, name: str) -> float:
    """The metric, over all its labels."""
    lines = httpx.get(f"{cluster.url}/metrics", timeout=120).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def test_metrics_of_the_replica_reach_the_ingress(cluster: Cluster, sdk: openai.OpenAI) -> None:
    value = functools.partial(counted, cluster)
    settled(cluster)
    tokens, first = value("starcoder_generation_tokens_total"), value("starcoder_time_to_first_token_seconds_count")
    sdk.completions.create(
        model=cluster.name, prompt=PROMPT, max_tokens=10, temperature=0, extra_body={"ignore_eos": True}
    )
    wait_until(lambda: value("starcoder_generation_tokens_total") >= tokens + 10, "the tokens are not counted")
    assert value("starcoder_time_to_first_token_seconds_count") == first + 1
    settled(cluster)


def test_what_a_client_waits_is_what_is_counted(cluster: Cluster) -> None:
    """More than the replica sees, less than the client does; and no client says when it came."""
    http, replica = "starcoder_http_time_to_first_token_seconds", "starcoder_time_to_first_token_seconds"
    settled(cluster)
    before = {name: counted(cluster, name) for name in (f"{http}_sum", f"{http}_count", f"{replica}_sum")}
    waited = 0.0
    for _ in range(4):
        body = long_request(cluster, max_tokens=4)
        headers = {"x-starcoder-arrived": str(int((time.time() - 60) * 1e6))}
        asked_at = time.monotonic()
        with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body, headers=headers, timeout=120) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if '"text"' in line)
            waited += time.monotonic() - asked_at
            list(lines)
    wait_until(lambda: counted(cluster, f"{http}_count") == before[f"{http}_count"] + 4, "they are not counted")
    at_ingress, at_replica = (counted(cluster, f"{name}_sum") - before[f"{name}_sum"] for name in (http, replica))
    assert at_replica < at_ingress < waited


def test_nothing_listens_beyond_this_machine(cluster: Cluster) -> None:
    """Ray's own ports take pickled calls from whoever reaches them."""
    inodes = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # listening
                inodes[f"socket:[{fields[9]}]"] = fields[1].rpartition(":")[0]
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    exposed = set()
    for pid in cluster.pids():
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            address = inodes.get(str(descriptor.readlink()) if descriptor.is_symlink() else "")
            if address is not None and address not in loopback:
                exposed.add((pid, address))
    assert not exposed


def test_ray_runs_what_the_server_needs(cluster: Cluster) -> None:
    """Each process that is left out is half a second of processor time, or a whole one, at every start."""
    lines = [command_line(pid) for pid in cluster.pids()]
    assert not [line for line in lines if "/dashboard.py " in line or "/monitor.py " in line]


def test_a_head_without_end_stops_nobody(cluster: Cluster) -> None:
    """Limits are kept before the application: what terminates HTTP found `deployments.cluster.proxy`."""
    before = refused(cluster)
    large = httpx.get(f"{cluster.url}/version", headers={"x-filler": "a" * 70_000}, timeout=PATIENCE_S)
    assert (large.status_code, large.json()["error"]["code"]) == (431, "head_too_large")
    assert cluster.status_of_an_endless_head() == 400
    strange = httpx.get(f"{cluster.url}/version", headers={"x-session-id": b"\xfc"}, timeout=PATIENCE_S)
    assert strange.status_code == 200
    # Both count in the node's directory, and are in the server's log.
    expected = {reason: count + 1 for reason, count in before.items()}
    wait_until(lambda: refused(cluster) == expected, lambda: f"{refused(cluster)}, not {expected}")
    wait_until(lambda: told(cluster, "invalid_http"), cluster.text)  # of many soon after each other, the first ones
    line = told(cluster, "invalid_http")[0]
    assert (line["client"], line["process"]) == ("127.0.0.1", "ingress")


def told(cluster: Cluster, reason: str) -> list[dict[str, Any]]:
    return [line for line in cluster.lines("connection.refused") if line.get("reason") == reason]


def refused(cluster: Cluster) -> dict[str, float]:
    """Connections so far, by the reasons that this file has for them."""
    series = "starcoder_connections_refused_total"
    return {
        reason: counted(cluster, f'{series}{{model="{cluster.name}",reason="{reason}"}}')
        for reason in ("head_too_large", "invalid_http")
    }
