"""The API over a real engine: what HTTP says is what transformers says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import torch
from transformers import GPTBigCodeForCausalLM

from deployments.ingress import create_app
from deployments.protocol import ModelInfo
from model.config import EngineConfig
from model.process.client import EngineClient
from model.text.prompts import Infill, render
from model.text.tokenizer import Tokenizer
from model.text.truncation import Window
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.local_backend import LocalBackend
from tests.support.ranks import RankGroup
from tests.support.tokenizers import write_tokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")

WINDOW = 256
PROMPT = "def add(a, b):\n    return"


@pytest.fixture(scope="module")
def reference() -> Iterator[GPTBigCodeForCausalLM]:
    # The engine's process needs the other core.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield random_model(vocab_size=1200)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint(reference: GPTBigCodeForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(write_checkpoint(tmp_path_factory.mktemp("checkpoint"), reference))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(checkpoint: Path) -> AsyncIterator[EngineClient]:
    config = EngineConfig(model=str(checkpoint), dtype="float32", device="cpu", num_kv_blocks=200, num_threads=1)
    group = await asyncio.to_thread(RankGroup(config).__enter__)
    try:
        async with group.client() as client:
            yield client
    finally:
        group.__exit__()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(engine: EngineClient, checkpoint: Path) -> AsyncIterator[httpx.AsyncClient]:
    tokenizer = Tokenizer.from_checkpoint(checkpoint)
    backend = LocalBackend(engine, tokenizer, ModelInfo(id="random", max_model_len=WINDOW, created=1))
    app = create_app(backend=backend, tokenizer=tokenizer)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def complete(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await http.post("/v1/completions", json={"ignore_eos": True, **body})
    assert response.status_code == 200, response.text
    return response.json()


def greedy(model: GPTBigCodeForCausalLM, ids: list[int], count: int) -> list[int]:
    ids = list(ids)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-count:]


async def test_greedy_text_is_transformers_text(
    http: httpx.AsyncClient, reference: GPTBigCodeForCausalLM, checkpoint: Path
) -> None:
    tokenizer = Tokenizer.from_checkpoint(checkpoint)
    window = Window(200, 16)
    cases = [
        ({"prompt": PROMPT}, tokenizer.encode(PROMPT)),
        ({"prompt": tokenizer.encode(PROMPT)}, tokenizer.encode(PROMPT)),
        ({"prompt": PROMPT, "suffix": "\n\nx"}, render(tokenizer, PROMPT, Infill("spm", "\n\nx"), window)),
        (
            {"prompt": PROMPT, "suffix": "\n\nx", "fim_mode": "psm"},
            render(tokenizer, PROMPT, Infill("psm", "\n\nx"), window),
        ),
    ]
    for body, ids in cases:
        answer = await complete(http, **body, temperature=0, max_tokens=20)
        assert answer["choices"][0]["text"] == tokenizer.decode(greedy(reference, ids, 20))
        assert answer["usage"]["prompt_tokens"] == len(ids)
        assert answer["usage"]["completion_tokens"] == 20


async def test_echoed_logprobs_are_transformers(
    http: httpx.AsyncClient, reference: GPTBigCodeForCausalLM, checkpoint: Path
) -> None:
    ids = Tokenizer.from_checkpoint(checkpoint).encode(PROMPT)
    answer = await complete(http, prompt=PROMPT, echo=True, logprobs=3, max_tokens=0)
    (choice,) = answer["choices"]
    assert choice["text"] == PROMPT
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits[0].log_softmax(-1)
    got = choice["logprobs"]
    assert got["token_logprobs"][0] is None
    for place in range(1, len(ids)):
        assert got["token_logprobs"][place] == pytest.approx(float(expected[place - 1, ids[place]]), abs=1e-3)
        best = expected[place - 1].topk(3).values.tolist()
        assert list(got["top_logprobs"][place].values())[:3] == pytest.approx(best, abs=1e-3)


async def test_a_seed_repeats_whatever_else_runs(http: httpx.AsyncClient) -> None:
    body: dict[str, Any] = {"prompt": PROMPT, "seed": 11, "n": 3, "max_tokens": 24}
    alone = await complete(http, **body)
    others = [complete(http, prompt=f"x{i} = ", max_tokens=30) for i in range(5)]
    together, *_ = await asyncio.gather(complete(http, **body), *others)
    texts = [choice["text"] for choice in alone["choices"]]
    assert [choice["text"] for choice in together["choices"]] == texts
    assert len(set(texts)) == 3


async def test_a_stream_says_the_same_and_the_second_request_is_cached(http: httpx.AsyncClient) -> None:
    body: dict[str, Any] = {"prompt": PROMPT * 4, "temperature": 0, "max_tokens": 30, "logprobs": 1}
    whole = await complete(http, **body)
    stream = {**body, "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
    response = await http.post("/v1/completions", json=stream)
    *events, done, _ = response.text.split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    tokens = [token for choice in choices if choice["logprobs"] for token in choice["logprobs"]["tokens"]]
    assert tokens == whole["choices"][0]["logprobs"]["tokens"]
    usage = chunks[-1]["usage"]
    assert usage["completion_tokens"] == whole["usage"]["completion_tokens"] == 30
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 16


async def test_a_cancelled_request_leaves_the_engine(http: httpx.AsyncClient, engine: EngineClient) -> None:
    for streaming in (False, True):
        task = asyncio.create_task(
            complete(http, prompt=PROMPT, max_tokens=200, n=4, stream=streaming),
        )
        async with asyncio.timeout(60):
            while not engine.open_requests:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            while engine.open_requests or (await engine.ping(60)).running:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert task.cancelled()


async def test_health_is_a_heartbeat(http: httpx.AsyncClient) -> None:
    response = await http.get("/health")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"


async def test_bad_requests_do_not_disturb_good_ones(
    http: httpx.AsyncClient, reference: GPTBigCodeForCausalLM, checkpoint: Path
) -> None:
    tokenizer = Tokenizer.from_checkpoint(checkpoint)
    bad = [{"prompt": "x", "max_tokens": -1}, {"prompt": [10**6]}, {"prompt": ""}, {"prompt": "x " * 9000}, {}]
    extreme: dict[str, Any] = {
        "prompt": "\0\U0001f389<|endoftext|>",
        "suffix": "<fim_middle>\0",
        "temperature": 1e-300,
        "top_p": 0,
        "min_p": 1,
        "repetition_penalty": 0.01,
        "frequency_penalty": -2,
        "logit_bias": {"5": 100, "6": -100},
        "seed": -(2**63),
        "n": 3,
        "best_of": 5,
        "max_tokens": 8,
    }
    good = complete(http, prompt=PROMPT, temperature=0, max_tokens=40)
    refused = asyncio.gather(*(http.post("/v1/completions", json=body) for body in bad))
    answer, responses, odd = await asyncio.gather(good, refused, complete(http, **extreme))
    assert answer["choices"][0]["text"] == tokenizer.decode(greedy(reference, tokenizer.encode(PROMPT), 40))
    assert [response.status_code for response in responses] == [400] * len(bad)
    assert len(odd["choices"]) == 3


async def test_every_dialect_fills_the_same_gap_with_the_same_text(http: httpx.AsyncClient) -> None:
    before, after, limit = "def add(a, b):\n    return", "\n\nprint(add(1, 2))\n", 24

    async def post(path: str, **body: Any) -> Any:
        response = await http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    prompt = {"prompt": before, "suffix": after}
    options: dict[str, Any] = {"max_tokens": limit, "temperature": 0, "completion_mode": "raw"}
    expected = (await post("/v1/completions", **prompt, **options))["choices"][0]["text"]
    assert len(expected) > 5
    template = f"<fim_prefix><fim_suffix>{after}<fim_middle>{before}"
    parameters = {"max_new_tokens": limit, "return_full_text": False}
    llama = {"n_predict": limit, "temperature": 0, "completion_mode": "raw"}
    ollama = {"model": "random", "stream": False, "options": {"num_predict": limit, "temperature": 0}}
    ollama["options"]["completion_mode"] = "raw"
    segments = {"prefix": before, "suffix": after}
    tabby = await post("/v1/completions", segments=segments, temperature=0, completion_mode="raw")
    answers = [
        (await post("/v1/fim/completions", **prompt, **options))["choices"][0]["message"]["content"],
        (await post("/beta/completions", **prompt, **options))["choices"][0]["text"],
        (await post("/generate", inputs=template, parameters=parameters))["generated_text"],
        (await post("/", inputs=template, parameters=parameters))[0]["generated_text"],
        (await post("/infill", input_prefix=before, input_suffix=after, **llama))["content"],
        (await post("/completion", prompt=template, **llama))["content"],
        (await post("/api/generate", **prompt, **ollama))["response"],
        (await post("/api/generate", prompt=template, raw=True, **ollama))["response"],
    ]
    assert answers == [expected] * len(answers)
    assert tabby["choices"][0]["text"].startswith(expected.rstrip("\ufffd"))


async def test_refactoring_ends_where_its_limit_does(http: httpx.AsyncClient) -> None:
    body = {"code": "x = 1\n", "instruction": "Two.", "temperature": 0, "max_tokens": 9, "ignore_eos": True}
    answer = (await http.post("/v1/refactor", json=body)).json()
    assert (answer["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 9)
    assert answer["diff"].startswith("--- a/code\n+++ b/code\n")
