"""Prompts and answers are read in time linear in them, and nobody else has to wait meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from unittest import mock

import pytest

from model.text import excerpts
from model.text.context import ContextFile, RepositoryContext
from model.text.detokenizer import Detokenizer
from model.text.excerpts import settled, unsettled
from model.text.prompts import Infill, Plain, PromptForm, Raw, render
from model.text.stop_strings import StopStrings
from model.text.tokenizer import Tokenizer
from model.text.truncation import Window
from tests.support.linear import PIECES, is_linear, text
from tests.support.tokenizers import starcoder_rules

TOKENIZER = Tokenizer(starcoder_rules())
WINDOW = Window(2048, 16)
STOPS = ["\n\n", "ab" * 400, "{" * 500, "</", "'''", "return x"]


def stopping(content: str) -> None:
    stops = StopStrings(STOPS)
    for char in content:
        stops.push(char)
        if stops.matched:
            stops = StopStrings(STOPS)


def back_and_forth(content: str) -> None:
    Detokenizer(TOKENIZER).push(TOKENIZER.encode(content))


def rendering(form: Callable[[str], PromptForm]) -> Callable[[str], object]:
    return lambda content: render(TOKENIZER, content, form(content), WINDOW)


READERS: dict[str, tuple[Callable[[str], object], int]] = {
    "encode": (TOKENIZER.encode, 40_000),
    "encode_with_special": (TOKENIZER.encode_with_special, 40_000),
    "parse_fim": (TOKENIZER.parse_fim, 400_000),
    "least_tokens": (TOKENIZER.least_tokens, 400_000),
    "unsettled": (unsettled, 400_000),
    "settled": (lambda content: settled(TOKENIZER, content, [300] * len(content)), 40_000),
    "raw": (rendering(lambda content: Raw()), 200_000),
    "plain": (rendering(lambda content: Plain()), 200_000),
    "infill": (rendering(lambda content: Infill("psm", content)), 200_000),
    "context": (rendering(lambda content: Plain(RepositoryContext("r", "p", (ContextFile("f", content),)))), 200_000),
    "stop strings": (stopping, 40_000),
    "detokenizer": (back_and_forth, 40_000),
}


@pytest.mark.parametrize("name", READERS)
def test_reading(name: str) -> None:
    reader, length = READERS[name]
    assert [kind for kind in PIECES if not is_linear(reader, kind, length)] == []


@pytest.mark.parametrize("kind", PIECES)
def test_the_ids_are_those_of_the_librarys_plain_way(kind: str) -> None:
    content = text(kind, 2000)
    assert TOKENIZER.encode(content) == TOKENIZER._rules.encode(content, add_special_tokens=False).ids


def test_others_run_while_a_text_is_encoded() -> None:
    """Encoding takes a third of a second of the processor's time; whoever waits looks up each millisecond."""
    thread = threading.Thread(target=TOKENIZER.encode, args=(text("minified code", 1_000_000),))
    thread.start()
    looks = 0
    while thread.is_alive():
        time.sleep(0.001)
        looks += 1
    assert looks > 20


def test_what_prompts_share_is_encoded_once() -> None:
    """Prompts of one request share the suffix and other files."""
    shared, encoded = TOKENIZER.remembering(), []
    form = Infill("psm", "the suffix", RepositoryContext("r", "p", (ContextFile("f", "a file"), ContextFile("g", "x"))))
    with mock.patch.object(shared, "_rules") as rules:
        rules.encode_batch_fast.side_effect = lambda texts, **options: (
            encoded.extend(texts) or TOKENIZER._rules.encode_batch_fast(texts, **options)
        )
        prompts = [render(shared, f"prompt {number}", form, WINDOW) for number in range(5)]
    assert [encoded.count(text) for text in ("the suffix", "\na file", "\nx", "r", "p", "f", "prompt 1")] == [1] * 7
    assert prompts == [render(TOKENIZER, f"prompt {number}", form, WINDOW) for number in range(5)]


@pytest.mark.parametrize("form", [Plain(), Infill("psm", "suffix"), Infill("spm", "suffix")], ids=str)
def test_metadata_takes_nothing_from_a_prompt_that_is_not_to_be_cut(form: Plain | Infill) -> None:
    content = "x = 1\n" * 60
    known = RepositoryContext("a/repository", "its/path.py", (ContextFile("other.py", "y = 2\n" * 30),))
    whole = form.encode(TOKENIZER, content)
    with_context = Plain(known) if isinstance(form, Plain) else Infill(form.mode, form.suffix, known)
    header = known.header(TOKENIZER, 1000)
    for room in (0, 1, len(header) - 1, len(header), len(header) + 40):
        ids = render(TOKENIZER, content, with_context, Window(len(whole) + room, 16, cuts=False))
        kept = TOKENIZER.decode(ids, skip_special=False)
        assert content in kept
        assert (TOKENIZER.decode(header, skip_special=False) in kept) == (room >= len(header))


def test_a_prompt_of_few_long_tokens_that_is_not_to_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies beyond so many characters a token is unread only where it may be cut."""
    monkeypatch.setattr(excerpts, "CHARS_PER_TOKEN", (1, 2))
    tokenizer = Tokenizer(starcoder_rules())
    content = " " * 5000
    length = len(tokenizer.encode(content))
    form = Plain(RepositoryContext("r", "p"))
    ids = render(tokenizer, content, form, Window(length + 30, 16, cuts=False))
    assert tokenizer.decode(ids) == "rp\n" + content
