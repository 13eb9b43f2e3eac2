"""What is found of known code in a text, and what is not."""

from __future__ import annotations

import math
import random
import string
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.attribution import search, tiles
from deployments.attribution.bloom import FALSE_POSITIVES, BloomFilter
from deployments.attribution.build import build
from deployments.attribution.index import FORMAT, Index, IndexedFile
from deployments.attribution.search import BEFORE, LONG, OWN, Looked
from deployments.attribution.tiles import LEAST, TILE, Compared
from tests.deployments.attribution.conftest import code
from tests.support.linear import PIECES, is_linear

SHARED_INDEX = pytest.mark.usefixtures("index")
SPACES = " \t\n\r\u00a0\u2003\u3000"


def bare(text: str) -> str:
    return "".join(text.split())


def noise(seed: int, length: int) -> str:
    """Text that is in no index."""
    return "".join(random.Random(seed).choices(string.ascii_letters, k=length))


@given(st.text())
def test_what_is_compared_is_the_text_without_its_white_space(text: str) -> None:
    compared = Compared.of(text)
    assert "".join(map(chr, compared.codes)) == bare(text)
    assert [text[place] for place in compared.places] == list(map(chr, compared.codes))


@given(st.text(alphabet=st.characters(exclude_categories=["Zs", "Cc"]), max_size=4 * TILE))
def test_a_tile_has_the_hash_of_its_window(text: str) -> None:
    compared = Compared.of(text)
    assert list(compared.tiles()) == list(compared.windows()[::TILE])


def splitmix64(value: int) -> int:
    """The finalizer, in whole numbers. Source: Steele, Lea and Flood, 2014, as `_mixed` has it."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> shift)) * factor % 2**64
    return value ^ (value >> 31)


@given(st.text(min_size=TILE, max_size=TILE, alphabet=st.characters(exclude_categories=["Zs", "Zl", "Zp", "Cc"])))
def test_a_hash_is_what_the_papers_say(text: str) -> None:
    multilinear = sum(ord(char) * int(factor) for char, factor in zip(text, tiles._FACTORS, strict=True)) % 2**64
    assert Compared.of(text).tiles().tolist() == [splitmix64(multilinear)]


def test_an_index_that_was_built_is_understood_by_later_versions() -> None:
    """Else its format has another number."""
    assert FORMAT == "1"
    assert Compared.of(string.printable).tiles().tolist() == [15623973958265598064]


@given(st.sets(st.integers(0, 2**64 - 1), max_size=200))
def test_a_filter_finds_all_that_is_in_it(hashes: set[int]) -> None:
    found = np.array(sorted(hashes), np.uint64)
    assert list(BloomFilter.of([found], len(found)).find(found)) == list(range(len(found)))


def test_a_filter_finds_next_to_nothing_else() -> None:
    drawn = np.random.default_rng(1)
    known = drawn.integers(0, 2**64, 20_000, np.uint64)
    others = drawn.integers(0, 2**64, 1_000_000, np.uint64)
    assert len(BloomFilter.of([known], len(known)).find(others)) <= 10 * FALSE_POSITIVES * len(others)


def probes(hash: int, bits: int) -> set[int]:
    """Where a filter of so many bits has one. Source: Kirsch and Mitzenmacher, 2006; the step is of the halves."""
    step = (hash >> 32 | hash << 32) % 2**64 | 1
    return {(hash + number * step) % 2**64 % bits for number in range(20)}


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_filter_that_was_built_is_understood_by_later_versions(count: int, tmp_path: Path) -> None:
    """Its bits are where they were, and as many: 1.44 for each time that the chance of an error is halved."""
    hashes = np.random.default_rng(2).integers(0, 2**64, count, np.uint64)
    BloomFilter.of([hashes[:300], hashes[300:]], count).save(tmp_path / "filter.npy")
    opened = BloomFilter.open(tmp_path / "filter.npy")._bits
    assert opened.dtype == np.uint8
    assert len(opened) == max(8, math.ceil(count * 20 / math.log(2) / 8))
    expected = {place for hash in hashes.tolist() for place in probes(hash, 8 * len(opened))}
    assert set(np.flatnonzero(np.unpackbits(opened, bitorder="little")).tolist()) == expected


def test_processes_of_a_node_share_a_filter(tmp_path: Path) -> None:
    BloomFilter.of([], 0).save(tmp_path / "filter.npy")
    opened = BloomFilter.open(tmp_path / "filter.npy")._bits
    assert isinstance(opened, np.memmap)
    assert not opened.flags.writeable


def test_a_window_is_as_long_as_a_tile() -> None:
    for length, windows in ((0, 0), (TILE - 1, 0), (TILE, 1), (TILE + 1, 2), (2 * TILE, TILE + 1)):
        compared = Compared.of("x" * length)
        assert (len(compared.windows()), len(compared.tiles())) == (windows, length // TILE)


def test_of_what_stands_before_only_the_last_is_looked_at() -> None:
    compared = Compared.of("a b\n c")
    for count, places in ((0, []), (1, [5]), (2, [2, 5]), (3, [0, 2, 5]), (9, [0, 2, 5])):
        last = compared.last(count)
        assert (last.places.tolist(), "".join(map(chr, last.codes))) == (places, "abc"[3 - len(places) :])


@given(data=st.data(), part=st.integers(0, 7), seed=st.integers(0, 1000))
def test_a_planted_copy_is_found_wherever_it_begins(data: st.DataObject, index: Index, part: int, seed: int) -> None:
    """Of as many characters as hold a whole tile; 149 hold two."""
    source = bare(code(part))
    length = data.draw(st.sampled_from([LEAST, 149, 150, 400]))
    begin = data.draw(st.integers(0, len(source) - length))
    before, after = noise(seed, data.draw(st.integers(0, 300))), noise(seed + 1, 60)
    copy = source[begin : begin + length]
    (found,) = Looked(index, "", before + copy + after).attributions
    # A letter of the noise may happen to be what goes on in the file.
    assert found.start <= len(before)
    assert found.end >= len(before) + length
    assert found.end - found.start < length + 10
    assert f"library/part{part}.py" in {one.file for one in found.sources}


@given(seed=st.integers(0, 10**6))
def test_other_white_space_hides_no_copy(seed: int, index: Index) -> None:
    drawn = random.Random(seed)
    source = bare(code(2))[100:300]
    text = "".join("".join(drawn.choices(SPACES, k=drawn.randrange(4))) + char for char in source)
    (found,) = Looked(index, "", text).attributions
    assert bare(text[found.start : found.end]) == source


@given(length=st.integers(0, LEAST - 1), begin=st.integers(0, 500), seed=st.integers(0, 100))
def test_a_short_copy_is_nobodys(index: Index, length: int, begin: int, seed: int) -> None:
    # Digits are no part of the noise, and stand at both ends of the copy: it is not longer by chance.
    text = f"{noise(seed, 100)}§{bare(code(1))[begin : begin + length]}§{noise(seed + 1, 100)}"
    assert Looked(index, "", text).attributions == []


def test_a_source_says_file_line_and_licence(index: Index) -> None:
    lines = code(100).splitlines(keepends=True)
    (found,) = Looked(index, "", "".join(lines[10:15])).attributions
    (source,) = found.sources
    assert (source.file, source.line, source.licence) == ("library/inner/tagged.c", 12, "GPL-2.0-only")


def test_code_of_two_files_has_two_sources(index: Index) -> None:
    """Wherever it stands in them."""
    (found,) = Looked(index, "", code(0)[:400]).attributions
    assert sorted((one.file, one.line, one.licence) for one in found.sources) == [
        ("library/inner/twin.py", 2, "MIT"),
        ("library/part0.py", 1, "MIT"),
    ]


def test_copies_of_several_files_are_told_apart(index: Index) -> None:
    one, other = code(3)[200:500], code(4)[300:600]
    found = Looked(index, "", f"{one}\n§ own words §\n{other}").attributions
    assert [[source.file for source in part.sources] for part in found] == [
        ["library/part3.py"],
        ["library/part4.py"],
    ]
    assert found[0].end <= found[1].start


def test_a_copy_may_have_begun_before_the_completion(index: Index) -> None:
    whole = code(5)
    before, text = whole[:300], whole[300:340]
    assert Looked(index, "", text).attributions == []
    (found,) = Looked(index, before, text).attributions
    assert (found.start, found.end) == (len(text) - len(text.lstrip()), len(text.rstrip()))
    assert found.sources[0].line == whole[: 300 + found.start].count("\n") + 1


def test_what_a_person_typed_is_not_the_completions(index: Index) -> None:
    whole = bare(code(5))
    assert Looked(index, whole[:BEFORE], "§ own words").attributions == []
    assert Looked(index, whole[:BEFORE], whole[BEFORE : BEFORE + OWN - 1] + "§").attributions == []
    assert len(Looked(index, whole[:BEFORE], whole[BEFORE : BEFORE + OWN] + "§").attributions) == 1


def test_a_cut_leaves_one_character_less_than_a_long_copy(index: Index) -> None:
    source = code(6)
    text = f"own words §\n{source}"
    cut = Looked(index, "", text).cut()
    assert cut is not None
    assert len(bare(text[:cut])) == len(bare("own words §")) + LONG - 1
    assert Looked(index, "", text[:cut]).cut() is None


def test_what_is_too_little_of_a_copy_hides_no_other(index: Index) -> None:
    """A person has typed nearly all of the first."""
    whole = bare(code(5))
    text = f"{whole[BEFORE : BEFORE + OWN - 1]}§ own words §{code(6)[:400]}"
    (found,) = Looked(index, whole[:BEFORE], text).attributions
    assert [source.file for source in found.sources] == ["library/part6.py"]


def test_a_source_may_lack_a_little_at_its_ends(tmp_path: Path) -> None:
    base = bare(code(50))[:300]
    top = tmp_path / "library"
    top.mkdir()
    for name, text in {
        "a": base,
        "b": base[OWN:],
        "c": base[OWN + 1 :],
        "d": base[:-OWN],
        "e": base[: -OWN - 1],
    }.items():
        (top / name).write_text(text)
    build([top], tmp_path / "out")
    index = Index.open(tmp_path / "out")
    (found,) = Looked(index, "", base).attributions
    index.close()
    assert (found.start, found.end) == (0, 300)
    assert sorted(source.file for source in found.sources) == ["library/a", "library/b", "library/d"]


def test_a_copy_that_ends_with_a_tile_is_compared_once(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    text = bare(code(6))[: 2 * TILE]
    compared = Mock(side_effect=search._alike)
    monkeypatch.setattr(search, "_alike", compared)
    (copy,) = Looked(index, "", text + "§").copies
    assert (copy.start, copy.end, copy.place, copy.length) == (0, 2 * TILE, 0, 2 * TILE)
    assert compared.call_count == 2, "to the right, and to the left"


def test_no_more_than_so_many_places_are_compared(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_MOST_COMPARED", 2)
    text = "§".join(bare(code(part))[: 2 * TILE] for part in (3, 4, 5, 6))
    assert [copy.file.path for copy in Looked(index, "", text).copies] == ["library/part3.py", "library/part4.py"]


@pytest.mark.parametrize("alike", [0, TILE - 1, TILE, TILE + 1])
def test_equal_hashes_alone_are_no_copy(alike: int) -> None:
    """Of texts that are not alike as far as a tile reaches."""
    said = bare(code(1))[: 2 * TILE]
    file = IndexedFile("a.py", None, said, Compared.of(f"{said[:alike]}§{said[alike + 1 :]}"))
    colliding = SimpleNamespace(places=lambda hashes: [(0, [(7, 0)])], file={7: file}.get)
    copies = Looked(colliding, "", said).copies  # type: ignore[arg-type]
    assert [(copy.start, copy.end) for copy in copies] == ([(0, alike)] if alike >= TILE else [])


def test_it_says_how_long_it_took(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [100.0, 100.25]
    monkeypatch.setattr(search, "time", SimpleNamespace(perf_counter=lambda: times.pop(0)))
    assert Looked(index, "", code(6)).seconds == 0.25


@pytest.mark.parametrize("kind", PIECES)
def test_work_is_linear(index: Index, kind: str) -> None:
    def look(text: str) -> None:
        Looked(index, text, text)

    assert is_linear(look, kind, 8_000)
