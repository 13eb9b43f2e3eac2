"""Bits a byte: of answers made by hand, and of a real engine beside transformers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPTBigCodeForCausalLM

from benchmarks.quality.asking import Server
from benchmarks.quality.own.asking import Manner, read_pieces
from benchmarks.quality.own.files import Selection, SourceFile
from benchmarks.quality.own.questions import Piece, Sample, pieces
from benchmarks.quality.own.reading import NoLogprobs, body, reading
from benchmarks.quality.own.record import Reading
from model.checkpoint.hub import resolve_checkpoint


def piece(text: str, begin: int) -> Piece:
    return Piece("p", "f", "a.py", "python", text, begin)


def answer(text: str, tokens: list[tuple[int, float | None]]) -> dict[str, Any]:
    offsets, logprobs = [at for at, _ in tokens], [logprob for _, logprob in tokens]
    return {"choices": [{"text": text, "logprobs": {"text_offset": offsets, "token_logprobs": logprobs}}]}


TOKENS: list[tuple[int, float | None]] = [(0, None), (2, -1.0), (3, -2.0), (5, -4.0)]


@pytest.mark.parametrize(
    ("begin", "nats", "size", "count"),
    [(0, 7.0, 7, 3), (2, 7.0, 7, 3), (3, 6.0, 5, 2), (4, 4.0, 1, 1)],
)
def test_what_begins_in_the_scored_part_counts(begin: int, nats: float, size: int, count: int) -> None:
    """`é` and `漢` are two and three bytes. The first token of a file is left out with its bytes, and so is one that
    begins in the context.
    """
    found = reading(piece("abé漢cd", begin), answer("abé漢cd", TOKENS))
    assert (found.bytes, found.tokens) == (size, count)
    assert found.bits == pytest.approx(nats / math.log(2))


def test_a_token_that_was_generated_is_not_looked_at() -> None:
    found = reading(piece("abc", 0), answer("abcd", [(0, None), (1, -1.0), (3, -50.0)]))
    assert (found.bits, found.bytes) == (pytest.approx(1 / math.log(2)), 2)


def test_a_file_of_one_token_says_nothing() -> None:
    assert reading(piece("a", 0), answer("a", [(0, None)])) == Reading("p", 0.0, 0, 0)


@pytest.mark.parametrize(
    "given",
    [
        {"choices": [{"text": "d", "logprobs": None}]},
        {"choices": [{"text": "d"}]},
        answer("abc", []),
        answer("d", [(0, -1.0)]),
        answer("abc", [(0, None), (2, -1.0), (1, -1.0)]),
        {"choices": [{"text": "abc", "logprobs": {"token_logprobs": [-1.0]}}]},
    ],
)
def test_a_server_that_does_not_score_prompts_is_told_apart(given: dict[str, Any]) -> None:
    with pytest.raises(NoLogprobs):
        reading(piece("abc", 0), given)


def test_ours_generates_nothing() -> None:
    assert body(piece("abc", 0), ours=True)["max_tokens"] == 0
    assert body(piece("abc", 0), ours=False)["max_tokens"] == 1


def characters(most: int) -> Callable[[httpx.Request], httpx.Response]:
    """A server that has a token for each character, all as likely, and room for so many."""

    def handle(request: httpx.Request) -> httpx.Response:
        text = json.loads(request.content)["prompt"]
        if len(text) > most:
            return httpx.Response(400, json={"error": {"code": "context_length_exceeded"}})
        return httpx.Response(200, json=answer(text, [(at, -1.0 if at else None) for at in range(len(text))]))

    return handle


@pytest.mark.parametrize(("most", "size"), [(40, 20), (30, 20), (22, 20), (15, 19), (3, 12)])
async def test_who_has_no_room_reads_with_less_before_it_and_then_in_parts(most: int, size: int) -> None:
    """Each character once; of a part with nothing before it, the first is lost."""
    client = httpx.AsyncClient(base_url="http://test", transport=httpx.MockTransport(characters(most)))
    found: list[Reading] = []
    await read_pieces(Server(client, "m"), [piece("x" * 40, 20)], Manner(), found.append)
    assert [(one.bytes, one.tokens, one.bits) for one in found] == [(size, size, pytest.approx(size / math.log(2)))]
    assert [one.shortened for one in found] == [most < 40]


async def test_no_room_at_all_ends() -> None:
    client = httpx.AsyncClient(base_url="http://test", transport=httpx.MockTransport(characters(0)))
    with pytest.raises(RuntimeError, match="no room for a single character"):
        await read_pieces(Server(client, "m"), [piece("x" * 40, 20)], Manner(), lambda _: None)


SOURCE = '''"""Größen von Körpern: 漢字."""

import math


class Body:
    def __init__(self, mass: float, radius: float) -> None:
        self.mass = mass
        self.radius = radius

    def density(self) -> float:
        volume = 4 / 3 * math.pi * self.radius**3
        return self.mass / volume


def heaviest(bodies: list[Body]) -> Body:
    return max(bodies, key=lambda body: body.mass)
'''


def bits_of(model: Any, tokenizer: Tokenizer, text: str, context: int) -> tuple[float, int]:
    """By transformers: of the tokens of `text` behind `context` of its characters, and their bytes."""
    coded = tokenizer.encode(text)
    ids, starts = coded.ids, [start for start, _ in coded.offsets]
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    counted = [at for at in range(1, len(ids)) if starts[at] >= context]
    nats = -sum(logprobs[at - 1, ids[at]].item() for at in counted)
    return nats / math.log(2), len(text[starts[counted[0]] :].encode())


@pytest.mark.asyncio(loop_scope="session")
async def test_a_real_engine_foresees_as_transformers_does(pico: httpx.AsyncClient) -> None:
    """In one window and in several, float32."""
    checkpoint = resolve_checkpoint("pico")
    model = GPTBigCodeForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    server = Server(pico, "pico")
    await server.look()
    assert server.ours
    for window, least in ((4096, 1), (200, 4)):
        asked = pieces(Selection([SourceFile("a.py", "python", SOURCE)]), Sample(window=window))
        assert len(asked) >= least
        found: list[Reading] = []
        await read_pieces(server, asked, Manner(), found.append)
        expected = [bits_of(model, tokenizer, one.text, one.begin) for one in asked]
        size = sum(one.bytes for one in found)
        assert size == sum(count for _, count in expected)
        assert sum(one.bits for one in found) / size == pytest.approx(sum(b for b, _ in expected) / size, abs=1e-3)
        first = len(SOURCE[: tokenizer.encode(SOURCE).offsets[0][1]].encode())
        assert size == len(SOURCE.encode()) - first, "each byte but those of the first token, once"
