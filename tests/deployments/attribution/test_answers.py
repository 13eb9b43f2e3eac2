"""What clients are told of code that a completion repeats, and what they get where copies are blocked."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, nullcontext
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import openai
import pytest
from fastapi import FastAPI

from deployments.attribution.backend import AttributedBackend, Attributor
from deployments.attribution.build import build
from deployments.attribution.index import Index
from deployments.attribution.search import LONG, OWN
from deployments.errors import AttributionUnavailableError
from deployments.ingress import create_app
from deployments.protocol import Delta, GenerationRequest
from model.text.before import text_before
from model.text.tokenizer import Tokenizer
from monitoring import IngressMetrics
from tests.deployments.attribution.conftest import code
from tests.deployments.attribution.test_search import bare
from tests.support.fake_app import in_process, tokenizer
from tests.support.fake_backend import MODEL, FakeBackend
from tests.support.log_lines import captured

__all__ = ["tokenizer"]

LONG_COPY = code(100)[:700]
LINES = code(100).splitlines(keepends=True)
COPIED = "".join(LINES[10:15])
ANSWER = f"{COPIED}# and words of its own: größe, 漢字\n"
SOURCE = {"file": "library/inner/tagged.c", "line": 12, "licence": "GPL-2.0-only"}
PART = {"start": 4, "end": len(COPIED.rstrip()), "sources": [SOURCE]}


class Repeating(FakeBackend):
    """Answers with a text of one's own. others: of completions after the first. heard_out: ids of streams."""

    answer = ANSWER
    others = ""

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        async with aclosing(super().stream(request)) as batches:
            async for deltas in batches:
                yield deltas
        self.heard_out.append(request.request_id)

    @cached_property
    def heard_out(self) -> list[str]:
        return []

    def tokens(self, number: int = 0) -> list[int]:
        text = self.others if number else self.answer
        if text not in self._known:
            self._known[text] = self.tokenizer.encode(text)
        return self._known[text]

    @cached_property
    def _known(self) -> dict[str, list[int]]:
        return {}


@pytest.fixture(scope="module")
def only_backend(tokenizer: Tokenizer) -> Repeating:
    return Repeating(tokenizer, window=4096)


@pytest.fixture(autouse=True)
def backend(only_backend: Repeating) -> Repeating:
    only_backend.answer, only_backend.others = ANSWER, ""
    return only_backend


Client = Callable[[Attributor | None], httpx.AsyncClient]


@pytest.fixture(scope="module")
def client_of(only_backend: Repeating, tokenizer: Tokenizer) -> Client:
    @cache
    def app(attributor: Attributor | None) -> FastAPI:
        metrics = IngressMetrics("blocking" if attributor is not None and attributor.block else "attributing")
        return create_app(backend=only_backend, tokenizer=tokenizer, attributor=attributor, metrics=metrics)

    return lambda attributor: in_process(app(attributor))


async def ask(client: httpx.AsyncClient, path: str = "/v1/completions", **body: Any) -> dict[str, Any]:
    response = await client.post(path, json={"prompt": "x = 1\n", "max_tokens": 2000, **body})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def chunks(client: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    response = await client.post("/v1/completions", json={"prompt": "x\n", "max_tokens": 2000, "stream": True, **body})
    *events, done, _ = response.text.split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]


async def test_nothing_is_said_where_it_is_off_or_the_code_is_nobodys(
    client_of: Client, backend: Repeating, attributor: Attributor
) -> None:
    assert "attribution" not in (await ask(client_of(None)))["choices"][0]
    backend.answer = "words of its own " * 20
    assert "attribution" not in (await ask(client_of(attributor)))["choices"][0]


async def test_whole_answers_and_last_chunks_say_whose_code_it_is(client_of: Client, attributor: Attributor) -> None:
    client = client_of(attributor)
    (choice,) = (await ask(client))["choices"]
    assert (choice["text"], choice["attribution"], choice["finish_reason"]) == (ANSWER, [PART], "stop")
    *earlier, last = await chunks(client)
    assert last["attribution"] == [PART]
    assert not any("attribution" in chunk for chunk in earlier)
    assert "".join(chunk["text"] for chunk in [*earlier, last]) == ANSWER


async def test_places_are_those_of_the_text_that_the_client_gets(client_of: Client, attributor: Attributor) -> None:
    client = client_of(attributor)
    (choice,) = (await ask(client, prompt="größe = 1\n", echo=True))["choices"]
    (part,) = choice["attribution"]
    assert choice["text"][part["start"] : part["end"]] == COPIED.strip()
    answer = await ask(client, "/v1/chat/completions", messages=[{"role": "user", "content": "Say it"}])
    (choice,) = answer["choices"]
    (part,) = choice["attribution"]
    assert choice["message"]["content"][part["start"] : part["end"]] == COPIED.strip()
    assert part["start"] == 0


async def test_documents_with_dos_line_ends(client_of: Client, attributor: Attributor) -> None:
    (choice,) = (await ask(client_of(attributor), prompt="x = 1\r\ny = 2\r\n", suffix="\r\n"))["choices"]
    (part,) = choice["attribution"]
    assert choice["text"][part["start"] : part["end"]] == COPIED.strip().replace("\n", "\r\n")


@pytest.mark.parametrize("mode", ["psm", "spm"])
async def test_what_stands_before_the_cursor_is_looked_at(
    client_of: Client, backend: Repeating, attributor: Attributor, mode: str
) -> None:
    backend.answer = LINES[15]
    client = client_of(attributor)
    asked = {"suffix": "\n# the end\n", "fim_mode": mode}
    assert "attribution" not in (await ask(client, prompt="x = 1\n", **asked))["choices"][0]
    (choice,) = (await ask(client, prompt=COPIED, **asked))["choices"]
    assert [source["line"] for source in choice["attribution"][0]["sources"]] == [17]


async def test_openais_client_passes_it_through(client_of: Client, backend: Repeating, attributor: Attributor) -> None:
    async with openai.AsyncOpenAI(
        base_url="http://test/v1", api_key="none", http_client=client_of(attributor)
    ) as client:
        answer = await client.completions.create(model=MODEL, prompt="x", max_tokens=2000)
        assert (answer.choices[0].model_extra or {})["attribution"] == [PART]


async def test_a_long_copy_is_blocked_alike_in_streams_and_whole_answers(
    client_of: Client, backend: Repeating, blocking: Attributor
) -> None:
    backend.answer = LONG_COPY
    client = client_of(blocking)
    (choice,) = (await ask(client))["choices"]
    assert choice["finish_reason"] == "content_filter"
    assert backend.answer.startswith(choice["text"])
    assert len(bare(choice["text"])) == LONG - 1
    assert choice["attribution"][0]["sources"][0]["file"] == SOURCE["file"]
    parts = await chunks(client)
    assert "".join(part["text"] for part in parts) == choice["text"]
    assert [part["finish_reason"] for part in parts][-2:] == [None, "content_filter"]
    assert parts[-1]["attribution"] == choice["attribution"]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
async def test_tokens_tell_no_more_than_the_text(
    client_of: Client, backend: Repeating, blocking: Attributor, line_end: str
) -> None:
    backend.answer = LONG_COPY
    asked = {"prompt": f"x{line_end}y{line_end}", "suffix": line_end, "logprobs": 1}
    (choice,) = (await ask(client_of(blocking), **asked))["choices"]
    tokens = choice["logprobs"]["tokens"]
    assert choice["text"].replace("\r", "") == "".join(tokens)
    assert [len(values) for values in choice["logprobs"].values()] == [len(tokens)] * 4
    parts = await chunks(client_of(blocking), **asked)
    assert [token for part in parts if part["logprobs"] for token in part["logprobs"]["tokens"]] == tokens


async def test_the_engine_computes_no_more_of_what_is_blocked(
    client_of: Client, backend: Repeating, blocking: Attributor
) -> None:
    backend.answer = LONG_COPY
    assert 0 < len(await chunks(client_of(blocking))) < len(backend.tokens()) / 2
    assert backend.closed[-1] == backend.requests[-1].request_id
    answer = await ask(client_of(blocking))
    assert 0 < answer["usage"]["completion_tokens"] < len(backend.tokens()) / 2
    assert backend.closed[-1] == backend.requests[-1].request_id


async def test_whether_the_engine_or_the_filter_ends_it_an_answer_is_whole(
    client_of: Client, backend: Repeating, attributor: Attributor, blocking: Attributor
) -> None:
    for client, text, reason in (
        (client_of(attributor), ANSWER, "stop"),
        (client_of(blocking), "words of its own", "stop"),
        (client_of(blocking), LONG_COPY, "content_filter"),
    ):
        backend.answer = text
        with captured() as lines:
            await chunks(client)
            assert (backend.requests[-1].request_id in backend.heard_out) == (reason == "stop")
            await ask(client)
        told = [(line["outcome"], line["finish_reasons"]) for line in lines.requests()]
        assert told == [("ok", [reason])] * 2


async def test_of_several_completions_only_copies_are_blocked(
    client_of: Client, backend: Repeating, blocking: Attributor
) -> None:
    backend.answer, backend.others = LONG_COPY, "words of its own " * 40
    choices = (await ask(client_of(blocking), n=2))["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["content_filter", "stop"]
    assert choices[1]["text"] == backend.others
    parts = await chunks(client_of(blocking), n=2)
    for number, choice in enumerate(choices):
        assert "".join(part["text"] for part in parts if part["index"] == number) == choice["text"]


async def test_code_that_a_person_has_typed_is_not_blocked_before_the_completion_goes_on_with_it(
    client_of: Client, backend: Repeating, blocking: Attributor
) -> None:
    typed = "".join(LINES[:10])
    backend.answer = "".join(LINES[10:20])
    (choice,) = (await ask(client_of(blocking), prompt=typed, suffix="\n"))["choices"]
    assert (len(bare(choice["text"])), choice["finish_reason"]) == (OWN, "content_filter")
    backend.answer = "# and words of its own\n"
    (choice,) = (await ask(client_of(blocking), prompt=typed, suffix="\n"))["choices"]
    assert (choice["text"], choice["finish_reason"]) == (backend.answer, "stop")


@pytest.fixture
def broken(corpus: Path, tmp_path: Path) -> Iterator[Callable[[bool], Attributor]]:
    """Makes attributors whose databases cannot be read."""
    build([corpus], tmp_path / "index")
    made: list[Attributor] = []

    def make(block: bool) -> Attributor:
        attributor = Attributor.open(tmp_path / "index", block)
        attributor._index.close()
        made.append(attributor)
        return attributor

    yield make
    for attributor in made:
        attributor.close()


async def test_a_broken_index_spoils_no_answer(client_of: Client, broken: Callable[[bool], Attributor]) -> None:
    client = client_of(broken(False))
    (choice,) = (await ask(client))["choices"]
    assert (choice["text"], choice.get("attribution")) == (ANSWER, None)
    assert "".join(part["text"] for part in await chunks(client)) == ANSWER


async def test_a_broken_index_lets_nothing_pass_where_copies_are_blocked(
    client_of: Client, broken: Callable[[bool], Attributor]
) -> None:
    response = await client_of(broken(True)).post("/v1/completions", json={"prompt": "x", "max_tokens": 2000})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "attribution_unavailable")


async def test_an_index_that_fails_again_is_told_again(
    backend: Repeating, tokenizer: Tokenizer, attributor: Attributor, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = AttributedBackend(backend, attributor, tokenizer)
    places = Index.places
    with captured() as lines:
        for works in (False, False, True, False):
            monkeypatch.setattr(Index, "places", places if works else Mock(side_effect=OSError("no disk")))
            with nullcontext() if works else pytest.raises(AttributionUnavailableError):
                await looking.look("", ANSWER)
        assert len(lines.all("attribution.unreadable")) == 2


async def test_a_prompt_is_read_once_however_many_completions_it_has(
    client_of: Client, backend: Repeating, attributor: Attributor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.others = ANSWER
    reading = Mock(side_effect=text_before)
    monkeypatch.setattr("deployments.attribution.backend.text_before", reading)
    choices = (await ask(client_of(attributor), prompt=[COPIED, "y = 2\n"], n=3))["choices"]
    assert [choice["attribution"][0]["sources"] for choice in choices] == [[SOURCE]] * 6
    assert reading.call_count == 2


async def test_it_is_counted(
    client_of: Client, backend: Repeating, attributor: Attributor, blocking: Attributor
) -> None:
    async def counted(model: str) -> Counter[str]:
        text = (await client_of(attributor).get("/metrics")).text
        pattern = rf'^starcoder_attribution_(\w+?)(?:_total|_count){{model="{model}"}} (\S+)$'
        return Counter({name: int(float(value)) for name, value in re.findall(pattern, text, re.MULTILINE)})

    models = ("attributing", "blocking")
    before = [await counted(model) for model in models]
    for client in (client_of(attributor), client_of(blocking)):
        for backend.answer in (LONG_COPY, "words of its own"):
            await ask(client)
    after = [await counted(model) for model in models]
    assert [after[0] - before[0], after[1] - before[1]] == [
        {"completions": 2, "matches": 1, "seconds": 2},
        {"completions": 2, "matches": 1, "blocked": 1, "seconds": 2},
    ]
