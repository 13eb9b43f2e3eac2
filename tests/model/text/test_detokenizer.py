"""Streaming text equals whole text, whatever the bytes, and arrives as early as it can."""

from __future__ import annotations

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from model.text.detokenizer import Detokenizer
from model.text.tokenizer import Tokenizer
from tests.support.tokenizers import starcoder_rules

TOKENIZER = Tokenizer(starcoder_rules())
BYTE_TOKEN = {
    TOKENIZER.token_bytes(id): id
    for id in range(TOKENIZER.vocab_size)
    if len(TOKENIZER.token_bytes(id)) == 1 and id not in TOKENIZER.special_ids
}

any_ids = st.lists(st.integers(0, TOKENIZER.vocab_size + 3), max_size=40)
text_ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(TOKENIZER.encode)
# Lead and continuation bytes in any order: valid, truncated, overlong, surrogates, out of range.
broken_ids = st.lists(
    st.sampled_from([0x41, 0x80, 0x9F, 0xA0, 0xBF, 0xC0, 0xC3, 0xE0, 0xE2, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xFF]),
    max_size=14,
).map(lambda values: [BYTE_TOKEN[bytes([value])] for value in values])
ids_of_any_kind = st.lists(any_ids | text_ids | broken_ids, max_size=4).map(lambda lists: list(itertools.chain(*lists)))


def byte_ids(data: bytes) -> list[int]:
    return [BYTE_TOKEN[bytes([value])] for value in data]


@given(ids=ids_of_any_kind, skip=st.booleans(), data=st.data())
@example(ids=byte_ids("👩‍💻é".encode()), skip=True, data=None)
def test_pushes_join_to_the_whole_text(ids: list[int], skip: bool, data: st.DataObject | None) -> None:
    detokenizer = Detokenizer(TOKENIZER, skip_special=skip)
    pieces, start = [], 0
    while start < len(ids):
        size = data.draw(st.integers(1, 5)) if data else 1
        pieces.append(detokenizer.push(ids[start : start + size]))
        start += size
    text = "".join([*pieces, detokenizer.flush()])
    assert text == TOKENIZER.decode(ids, skip_special=skip)
    assert len(detokenizer.offsets) == len(ids)


@given(ids=ids_of_any_kind)
def test_text_is_certain_when_it_comes_and_comes_when_it_is_certain(ids: list[int]) -> None:
    """After each token: what has come is a prefix of every continuation, and at most 3 bytes are missing."""
    detokenizer, shown, data = Detokenizer(TOKENIZER), "", b""
    for id in ids:
        shown += detokenizer.push([id])
        data += b"" if id in TOKENIZER.special_ids else TOKENIZER.token_bytes(id)
        for continuation in (b"", b"a", b"\x80", b"\xbf\xbf\xbf", b"\xc3"):
            assert (data + continuation).decode(errors="replace").startswith(shown)
        held = data[len(shown.encode()) :] if "\ufffd" not in shown else b""
        assert len(held) <= 3
        # What is missing is the unfinished start of one character: a single U+FFFD if the text ended here.
        assert data.decode(errors="replace") in (shown, shown + "\ufffd")


@given(ids=ids_of_any_kind)
def test_offsets_point_at_the_character_in_which_a_token_begins(ids: list[int]) -> None:
    detokenizer = Detokenizer(TOKENIZER)
    detokenizer.push(ids)
    data = b""
    for id, offset in zip(ids, detokenizer.offsets, strict=True):
        piece = b"" if id in TOKENIZER.special_ids else TOKENIZER.token_bytes(id)
        # The character that holds byte k is the last one of the text that ends with byte k, unless more bytes
        # are needed to tell: then an unfinished character counts as one, as U+FFFD does.
        upto = (data + piece[:1]).decode(errors="replace")
        if piece:
            assert offset == len(upto) - 1
        else:
            assert offset in (len(data.decode(errors="replace")), len(data.decode(errors="replace")) - 1)
        data += piece


def test_a_character_over_several_tokens_comes_whole() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    assert [detokenizer.push([id]) for id in byte_ids("🎉".encode())] == ["", "", "", "🎉"]
    assert detokenizer.offsets == [0, 0, 0, 0]


def test_broken_bytes_do_not_stall() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    assert detokenizer.push(byte_ids(b"\xf0\x9f")) == ""
    assert detokenizer.push(byte_ids(b"a")) == "\ufffda"
    assert detokenizer.offsets == [0, 0, 1]
    assert detokenizer.push(byte_ids(b"\xff")) == "\ufffd"
    assert detokenizer.push(byte_ids(b"\xe2\x82")) == ""
    assert detokenizer.flush() == "\ufffd"


def test_special_tokens_are_shown_only_when_asked() -> None:
    ids = [*TOKENIZER.encode("a"), TOKENIZER.eos_id]
    assert Detokenizer(TOKENIZER).push(ids) == "a"
    assert Detokenizer(TOKENIZER, skip_special=False).push(ids) == "a<|endoftext|>"
