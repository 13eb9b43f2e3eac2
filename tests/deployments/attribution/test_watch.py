"""A completion that grows ends before it has repeated too much, and is not held up otherwise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deployments.attribution.index import Index
from deployments.attribution.search import LONG, OWN, Looked
from deployments.attribution.watch import Watch
from tests.deployments.attribution.conftest import code
from tests.deployments.attribution.test_search import bare, noise


class Passing:
    """What a watch passes on of a text that comes in pieces. looks: how often the index was asked."""

    def __init__(self, index: Index, before: str = "") -> None:
        self._index = index
        self._watch = Watch(self._look, before)
        self.looks = 0
        self.text = ""

    async def _look(self, before: str, text: str) -> Looked:
        self.looks += 1
        return Looked(self._index, before, text)

    async def takes(self, text: str, length: int) -> bool:
        """In pieces of so many characters; whether all of it."""
        for at in range(0, len(text), length):
            piece = text[at : at + length]
            passed = await self._watch.passed(piece)
            self.text += piece if passed is None else passed
            if passed is not None:
                return False
        return True


@given(ahead=st.integers(0, 200), part=st.integers(0, 7), begin=st.integers(0, 800), length=st.integers(1, 700))
async def test_no_long_copy_passes_however_it_comes(
    index: Index, ahead: int, part: int, begin: int, length: int
) -> None:
    text = noise(begin, ahead) + "\n" + code(part)[begin:]
    passing = Passing(index)
    assert not await passing.takes(text, length)
    whole = text
    while (cut := Looked(index, "", whole).cut()) is not None:
        whole = whole[:cut]
    assert passing.text == whole


@given(copied=st.integers(0, LONG - 1), length=st.integers(1, 200))
async def test_shorter_copies_pass(index: Index, copied: int, length: int) -> None:
    text = f"{noise(1, 300)}§{bare(code(3))[70 : 70 + copied]}§{noise(2, 300)}"
    passing = Passing(index)
    assert await passing.takes(text, length)
    assert passing.text == text


@given(typed=st.integers(0, 400))
async def test_what_was_typed_before_counts(index: Index, typed: int) -> None:
    whole = bare(code(4))
    passing = Passing(index, whole[:typed])
    assert not await passing.takes(whole[typed:], 3)
    assert len(passing.text) == max(OWN, LONG - 1 - typed)


async def test_the_index_is_asked_every_fifty_characters(index: Index) -> None:
    passing = Passing(index)
    assert await passing.takes(noise(5, 5_000), 4)
    assert 95 <= passing.looks <= 105
