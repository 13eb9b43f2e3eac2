"""What the training on a GPU reads: the token file, texts cut at any character, rows."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from model.pico.corpus import Document as Source
from model.pico.gpu import tokens
from model.pico.gpu.cuts import Document, Encoder, Kinds, hole, pieces
from model.pico.gpu.feed import Feed
from model.pico.gpu.pack import held_out as pack_held_out
from model.pico.gpu.pack import pack
from model.pico.gpu.rows import Mixture, Rows, arrange
from model.pico.gpu.tokens import HeldOut, Texts
from model.pico.prepare import encoded
from model.pico.tokenizer_training import END, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, SPECIAL_TOKENS, train_tokenizer


@pytest.fixture(scope="module")
def vocabulary(held_out: str) -> Tokenizer:
    return train_tokenizer([held_out], 512)


@pytest.fixture(scope="module")
def texts(held_out: str, vocabulary: Tokenizer) -> Texts:
    sources = [Source("p", f"p/{i:02}.py", held_out[i * 97 : i * 97 + 2500], "train") for i in range(20)]
    return pack(sources, list(encoded([s.text for s in sources], vocabulary)), vocabulary)


def document(text: str, vocabulary: Tokenizer) -> Document:
    table = tokens.byte_table(vocabulary)
    ids = np.concatenate([np.zeros(0, np.uint16), *encoded([text], vocabulary)]).astype(np.uint16)
    lengths = np.array([len(b) for b in table], np.int64)
    return Document(ids, table, lengths, Encoder(lambda t: list(vocabulary.encode(t).ids)))


def test_the_token_file_comes_back(texts: Texts, held_out: str, vocabulary: Tokenizer, tmp_path: Path) -> None:
    tokens.write(texts, tmp_path)
    again = tokens.read(tmp_path)
    np.testing.assert_array_equal(again.ids, texts.ids)
    np.testing.assert_array_equal(again.ends, texts.ends)
    package, path, text = (vocabulary.decode(part.tolist()) for part in again.parts(3))
    assert (package, path, text) == ("p", "p/03.py\n", held_out[3 * 97 : 3 * 97 + 2500])


def test_the_bytes_of_ids_are_the_text(held_out: str, vocabulary: Tokenizer) -> None:
    text = held_out + "é → 語\x00\r\n\t\u00a0"
    assert document(text, vocabulary).text == text.encode()
    assert tokens.byte_table(vocabulary)[: len(SPECIAL_TOKENS)] == [name.encode() for name in SPECIAL_TOKENS]


@given(st.text(alphabet="ab12 \n\t'.(é\u00a0語", max_size=80), st.data())
@settings(deadline=None, max_examples=200)
def test_a_part_has_the_ids_that_it_has_alone(vocabulary: Tokenizer, text: str, data: st.DataObject) -> None:
    whole = document(text, vocabulary)
    start, end = sorted(data.draw(st.integers(0, len(whole.text))) for _ in range(2))
    start, end = whole.character(start), whole.character(end)
    found = [id for part in whole.between(start, end) for id in part.tolist()]
    assert found == vocabulary.encode(whole.text[start:end].decode()).ids


def test_parts_of_a_source_have_the_ids_that_they_have_alone(held_out: str, vocabulary: Tokenizer) -> None:
    whole, rng = document(held_out, vocabulary), random.Random(1)
    for _ in range(300):
        start, end = sorted(rng.randrange(len(whole.text)) for _ in range(2))
        start, end = whole.character(start), whole.character(end)
        found = [id for part in whole.between(start, end) for id in part.tolist()]
        assert found == vocabulary.encode(whole.text[start:end].decode()).ids


@given(st.text(alphabet="abé\n", max_size=3000), st.integers(100, 900), st.integers())
@settings(deadline=None, max_examples=50)
def test_pieces_join_again(text: str, longest: int, seed: int) -> None:
    data = text.encode()
    found = pieces(data, 40, longest, random.Random(seed))
    assert b"".join(data[start:end] for start, end in found) == data
    assert all(data[start:end].decode() for start, end in found)


SOURCE = "class A:\n    def f(self, x):\n        if x:\n            return 1\n        return 2\n\n    y = 3\n"


@pytest.mark.parametrize("name", list(vars(Kinds())))
def test_holes_are_of_their_kind(name: str, vocabulary: Tokenizer) -> None:
    kinds = Kinds(**{kind: float(kind == name) for kind in vars(Kinds())})
    whole, rng, seen = document(SOURCE, vocabulary), random.Random(2), set()
    for _ in range(5000):
        first, last, end = hole(whole, 0, len(SOURCE), rng, kinds)
        assert 0 <= first <= last <= end <= len(SOURCE)
        assert end == (last if name == "open" else len(SOURCE))
        seen.add(SOURCE[first:last])
    expected = {
        "line": {"class A:", "def f(self, x):", "y = 3"},
        "rest": {"self, x):", "A:", "return 2"},
        "open": {"self, x):", "return 2", "return 1\n        return 2"},
        "within": {""},
        "lines": {"if x:\n            return 1", "return 2\n\n    y = 3"},
        "block": {"if x:\n            return 1\n        return 2", "return 1", SOURCE[:-1]},
        "any": set(),
    }
    assert seen >= expected[name]
    if name in ("line", "rest", "within"):
        assert not any("\n" in middle for middle in seen)
    if name == "within":
        assert max(map(len, seen)) == 15  # no line of these is longer
    if name == "line":
        assert seen - {""} == {line.strip() for line in SOURCE.split("\n") if line.strip()}


def test_what_a_client_writes_is_never_learned() -> None:
    prefix, middle, suffix = ([np.array(ids, np.uint16)] for ids in ([30, 31], [40, 41], [50]))
    spm = arrange(prefix, middle, suffix, True, 3)
    assert spm.ids.tolist() == [FIM_PREFIX, FIM_SUFFIX, 50, FIM_MIDDLE, 30, 31, 40, 41, END]
    assert spm.weights.tolist() == [0, 0, 1, 0, 1, 1, 3, 3, 3]
    assert spm.targets is spm.ids
    psm = arrange(prefix, middle, suffix, False, 3)
    assert psm.ids.tolist() == [FIM_PREFIX, 30, 31, FIM_SUFFIX, 50, FIM_MIDDLE, 40, 41, END]
    assert psm.weights.tolist() == [0, 1, 1, 0, 3, 0, 3, 3, 3]
    assert psm.targets.tolist() == [FIM_PREFIX, 30, 31, FIM_SUFFIX, 40, FIM_MIDDLE, 40, 41, END]
    empty = arrange(prefix, middle, [], False, 3)  # nothing behind the cursor
    assert empty.targets.tolist() == [FIM_PREFIX, 30, 31, FIM_SUFFIX, 40, 40, 41, END]


def batch(rows: Rows, number: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids, targets = np.zeros((2, number, length), np.uint16)
    weights = np.zeros((number, length), np.uint8)
    rows.fill(ids, targets, weights)
    return ids, targets, weights


def test_rows_hold_pieces_in_both_orders_and_documents(texts: Texts, vocabulary: Tokenizer) -> None:
    ids, targets, weights = batch(Rows(texts, vocabulary, list(range(20)), 3, Mixture()), 200, 128)
    prefixes = int((ids == FIM_PREFIX).sum())
    assert prefixes > 150
    spm = int(((ids[:, :-1] == FIM_PREFIX) & (ids[:, 1:] == FIM_SUFFIX)).sum())
    assert 0.4 < spm / prefixes < 0.7
    assert 0.15 < (ids > len(SPECIAL_TOKENS)).all(1).mean() + (ids[:, 0] == END).mean() < 0.5
    same = targets[:, :-1] == ids[:, 1:]
    assert (ids[:, :-1][~same] == FIM_SUFFIX).all()
    assert set(targets[weights > 0].tolist()).isdisjoint(range(1, len(SPECIAL_TOKENS)))
    assert (weights == Mixture().middle_weight).mean() > 0.03


def test_the_same_seed_gives_the_same_rows(texts: Texts, vocabulary: Tokenizer) -> None:
    first, second = (batch(Rows(texts, vocabulary, [0, 1, 2], 7, Mixture()), 8, 64) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_processes_make_rows_ahead(texts: Texts, vocabulary: Tokenizer, tmp_path: Path) -> None:
    vocabulary.save(str(tmp_path / "tokenizer.json"))
    feed = Feed(texts, tmp_path / "tokenizer.json", 1024, 2, 5, Mixture())
    try:
        seen = set()
        for length in (128, 256, 128, 256, 128, 256):
            feed.ask(length)
            with feed.take() as found:
                assert found.ids.shape == found.targets.shape == found.weights.shape == (1024 // length, length)
                assert found.ids.max() < 512
                assert (found.targets[:, :-1] == found.ids[:, 1:]).mean() > 0.9
                seen.add(found.ids.tobytes())
        assert len(seen) == 6
    finally:
        feed.close()


def test_what_is_held_out_is_packed(held_out: str, vocabulary: Tokenizer, tmp_path: Path) -> None:
    sources = [Source("p", "a.py", held_out, "heldout_file"), Source("q", "b.py", held_out[::-1], "heldout_package")]
    pack_held_out(sources, vocabulary, 1000, 5).write(tmp_path)
    found = HeldOut.read(tmp_path)
    assert found.sizes == {"heldout_file": len(held_out.encode()), "heldout_package": len(held_out.encode())}
    assert vocabulary.decode(found.texts["heldout_file"][0]) == held_out
    assert len(found.holes) == 5
    for spm, psm, line in found.holes:
        assert spm[:2] == [FIM_PREFIX, FIM_SUFFIX]
        assert psm[-1] == FIM_MIDDLE
        assert sorted(spm) == sorted(psm)
        assert line.strip()
