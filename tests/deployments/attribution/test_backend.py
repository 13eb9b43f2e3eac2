"""A backend that looks up what passes: what it passes on, what it counts, and on which thread it looks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.attributed import Attribution, Source
from deployments.attribution import backend as module
from deployments.attribution.backend import AttributedBackend, Attributor, _blocked
from deployments.attribution.search import BEFORE, LEAST
from deployments.errors import AttributionUnavailableError
from deployments.http.request_record import RequestRecord
from deployments.protocol import Delta, GenerationRequest
from model.request import SamplingParams, TokenLogprobs
from model.text.detokenizer import Detokenizer
from model.text.tokenizer import Tokenizer
from tests.support.fake_app import tokenizer
from tests.support.log_lines import captured

__all__ = ["tokenizer"]

FOUND = [Attribution(0, 9, [Source("a.py", 1, "MIT")])]


class Reader:
    """Looks in a quarter of a second. found: whatever it is asked; cut: where that has to end; failure: what it raises.

    asked: what stands before it, and what it is.
    """

    def __init__(self, block: bool = False) -> None:
        self.block = block
        self.found: list[Attribution] = []
        self.cut: int | None = None
        self.failure: Exception | None = None
        self.asked: list[tuple[str, str]] = []

    async def look(self, before: str, text: str) -> Any:
        self.asked.append((before, text))
        if self.failure is not None:
            raise self.failure
        return SimpleNamespace(
            attributions=self.found, seconds=0.25, cut=lambda written: self.cut, unfinished=lambda: LEAST - 1
        )


class Saying:
    """Answers with these batches. heard: how many were taken; closed: it was left, or has said all."""

    def __init__(self, *batches: list[Delta]) -> None:
        self._batches = batches
        self.heard = 0
        self.closed = False

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        try:
            for batch in self._batches:
                self.heard += 1
                yield batch
        finally:
            self.closed = True

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        return [delta for batch in self._batches for delta in batch]

    async def health(self) -> Any:
        return "its health"

    async def info(self) -> Any:
        return "its model"


class Counted:
    """looks: of each completion whether something was found, whether it was blocked, and how long it was looked for."""

    def __init__(self) -> None:
        self.looks: list[tuple[bool, bool, float]] = []
        self.failures = 0
        self.attribution = self

    def looked(self, matched: bool, blocked: bool, seconds: float) -> None:
        self.looks.append((matched, blocked, seconds))

    def failed(self) -> None:
        self.failures += 1


def asked(best_of: int = 1, prompt: list[int] | None = None) -> GenerationRequest:
    return GenerationRequest(
        request_id="r", prompts=[prompt or []], params=SamplingParams(), n=best_of, best_of=best_of
    )


def attributed(
    backend: Saying, reader: Reader, tokenizer: Tokenizer, counted: Counted | None = None
) -> AttributedBackend:
    return AttributedBackend(backend, reader, tokenizer, lambda: counted)  # type: ignore[arg-type, return-value]


async def streamed(backend: AttributedBackend, request: GenerationRequest) -> list[list[tuple[int, str]]]:
    return [[(delta.index, delta.text) for delta in batch] async for batch in backend.stream(request)]


def text(index: int, said: str, finish: Any = None) -> Delta:
    return Delta(index=index, text=said, finish_reason=finish)


async def test_how_it_is_and_what_it_serves_is_asked_of_the_one_below(tokenizer: Tokenizer) -> None:
    one: Any = attributed(Saying(), Reader(), tokenizer)
    assert (await one.health(), await one.info()) == ("its health", "its model")


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("found", [[], FOUND])
async def test_each_completion_is_counted_with_all_the_time_that_it_took(
    tokenizer: Tokenizer, block: bool, found: list[Attribution]
) -> None:
    """Where copies are blocked it is looked up as it grows, too."""
    reader, counted = Reader(block), Counted()
    reader.found = found
    below = Saying([text(0, "x" * 60)], [text(0, "y" * 60)], [text(0, "z", "stop")])
    assert await streamed(attributed(below, reader, tokenizer, counted), asked()) == [
        [(0, "x" * 60)],
        [(0, "y" * 60)],
        [(0, "z")],
    ]
    assert counted.looks == [(bool(found), False, 0.75 if block else 0.25)]
    assert reader.asked[-1] == ("", "x" * 60 + "y" * 60 + "z")


async def test_of_a_prompt_as_much_is_read_as_a_copy_may_begin_in(tokenizer: Tokenizer) -> None:
    """White space may be half of it."""
    ids = [token for number in range(BEFORE) for token in tokenizer.encode(chr(ord("a") + number % 26) + "\n")]
    reader = Reader()
    await streamed(attributed(Saying([text(0, "z", "stop")]), reader, tokenizer), asked(prompt=[ids[1], *ids]))
    ((before, _),) = reader.asked
    assert before == tokenizer.decode(ids[-2 * BEFORE :])


async def test_what_an_engine_says_of_a_blocked_completion_is_not_passed_on(tokenizer: Tokenizer) -> None:
    """Nor told as news of nothing; and once all have ended, nobody waits for what it has still to say."""
    reader, counted, record = Reader(block=True), Counted(), RequestRecord("http-1", "POST", "/v1/completions")
    record.make_current()
    below = Saying(
        [text(0, "abc"), text(1, "def")], [text(0, "more")], [text(0, "and more"), text(1, "", "stop")], [text(0, "!")]
    )
    batches = attributed(below, reader, tokenizer, counted).stream(asked(best_of=2))
    reader.cut = 2
    first = await anext(batches)
    assert [(delta.text, delta.finish_reason) for delta in first] == [("ab", "stop"), ("de", "stop")]
    assert (below.heard, below.closed) == (1, False)
    with pytest.raises(StopAsyncIteration):
        await anext(batches)
    assert (below.heard, below.closed) == (1, True)
    assert (record.whole_ids, record.blocked) == ({"r"}, {0, 1})
    assert counted.looks == [(False, True, 0.5)] * 2


async def test_others_go_on_where_one_is_blocked(tokenizer: Tokenizer) -> None:
    reader = Reader(block=True)
    below = Saying([text(0, "abc")], [text(0, "more")], [text(1, "def", "stop"), text(0, "!")], [text(0, "?")])
    batches = attributed(below, reader, tokenizer).stream(asked(best_of=2))
    reader.cut = 2
    told = [[(delta.index, delta.text) for delta in await anext(batches)]]
    reader.cut = None
    told += [[(delta.index, delta.text) for delta in batch] async for batch in batches]
    assert told == [[(0, "ab")], [(1, "def")]]
    assert (below.heard, below.closed) == (3, True)


async def test_an_index_that_cannot_be_read_is_told_as_an_error_and_counted(tokenizer: Tokenizer) -> None:
    reader, counted = Reader(), Counted()
    reader.failure = OSError("no disk")
    one = attributed(Saying([text(0, "abc", "stop")]), reader, tokenizer, counted)
    with captured() as lines:
        assert await streamed(one, asked()) == [[(0, "abc")]]
        assert await streamed(one, asked()) == [[(0, "abc")]]
    told = [(line["level"], line["message"]) for line in lines.all("attribution.unreadable")]
    assert told == [("error", "no disk")]
    assert (counted.failures, counted.looks) == (2, [])


async def test_nothing_passes_unseen_where_copies_are_blocked_and_the_index_breaks_at_the_end(
    tokenizer: Tokenizer,
) -> None:
    reader = Reader(block=True)
    batches = attributed(Saying([text(0, "abc")], [text(0, "", "stop")]), reader, tokenizer).stream(asked())
    assert [delta.text for delta in await anext(batches)] == ["abc"]
    reader.failure = OSError("no disk")
    with pytest.raises(AttributionUnavailableError):
        await anext(batches)


async def test_one_thread_of_its_own_looks_for_all(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is for one at a time; and whoever looks at the process's threads sees whose it is."""
    go_on = threading.Event()
    monkeypatch.setattr(module, "Looked", lambda *_: (go_on.wait(60), threading.current_thread().name)[1])

    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("attribution")}

    before = threads()
    attributor = Attributor.open(directory)
    looks = [asyncio.create_task(attributor.look("", "")) for _ in range(3)]
    await asyncio.sleep(0)
    (thread,) = threads() - before
    go_on.set()
    assert await asyncio.gather(*looks) == [thread.name] * 3  # type: ignore[comparison-overlap]
    attributor.close()
    assert not thread.is_alive()


class Pairs:
    """A tokenizer whose tokens are two characters each."""

    special_ids: frozenset[int] = frozenset()

    @staticmethod
    def token_bytes(id: int) -> bytes:
        return b"%02d" % id


@pytest.mark.parametrize(
    ("told", "passed", "kept"),
    [("00", "0102", 2), ("00", "010", 1), ("00", "01", 1), ("00", "0", 0), ("00", "", 0), ("\r\n", "0\r\n1", 1)],
)
def test_of_what_is_blocked_the_tokens_are_told_that_are_whole(told: str, passed: str, kept: int) -> None:
    """Nothing of the last one, which goes beyond the cut; and no stop string or rule has ended it."""
    tokens = Detokenizer(Pairs())  # type: ignore[arg-type]
    tokens.push([0, 1, 2, 3])
    if told == "\r\n":  # two characters for the client, and one for the model
        tokens.offsets = [0, 1, 3, 5]
    entries = [TokenLogprobs(id, -1.0) for id in (1, 2, 3)]
    delta = Delta(
        index=1,
        text="010203",
        token_ids=[1, 2, 3],
        logprobs=entries,
        rule_logprobs=[-1.0, -2.0, -3.0],
        text_offsets=[2, 4, 6],
        finish_reason="length",
        stop_reason="03",
        ended_by="repetition",
        cached_tokens=5,
        engine="e",
    )
    assert _blocked(delta, passed, tokens, told) == Delta(
        index=1,
        text=passed,
        token_ids=[1, 2, 3][:kept],
        logprobs=entries[:kept],
        rule_logprobs=[-1.0, -2.0, -3.0][:kept],
        text_offsets=[2, 4, 6][:kept],
        finish_reason="stop",
        cached_tokens=5,
        engine="e",
        blocked=True,
    )
    plain = _blocked(Delta(index=0, text="010203", token_ids=[1, 2, 3]), passed, tokens, told)
    assert (plain.logprobs, plain.rule_logprobs, plain.text_offsets) == (None, None, None)
