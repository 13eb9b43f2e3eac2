"""The ends of a text: what typing can still change, and that no text is dear to look at."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.text.excerpts import settled, unsettled
from model.text.prompts import Infill, Plain, PromptForm, Raw, render
from model.text.truncation import Window
from tests.support.infills import BLOCK, SOURCE, STARCODER

TEXTS: dict[str, Callable[[int], str]] = {
    "a word": lambda size: "A" * size,
    "a word and a space": lambda size: "A" * size + " ",
    "white space": lambda size: " " * size,
    "white space and a word": lambda size: " " * size + "A",
    "line ends and a word": lambda size: "\n" * size + "A",
    "words": lambda size: "A " * (size // 2),
    "a word, then white space": lambda size: "A" * (size // 2) + "\u2028" * (size // 2),
    "markers": lambda size: "<fim_prefix>" * (size // 12),
    "almost a template": lambda size: "<fim_prefix><fim_suffix>" * (size // 24),
}


def growth(work: Callable[[str], object], text: Callable[[int], str], size: int) -> float:
    """How many times longer work takes on 16 times the text: up to 16 where it is linear, near 256 where quadratic."""
    small, large = text(size), text(16 * size)
    return seconds(work, large) / max(seconds(work, small), 1e-6)


def seconds(work: Callable[[str], object], text: str) -> float:
    """Processor time of the quickest of three runs."""
    times = []
    for _ in range(3):
        started = time.thread_time()
        work(text)
        times.append(time.thread_time() - started)
    return min(times)


@given(value=st.text(st.sampled_from("ab \n\t\u2028\x1cé")))
def test_the_unsettled_tail_is_the_last_word_and_the_white_space_before_it(value: str) -> None:
    tail = re.search(r"\s*\S*\Z", value)
    assert tail is not None
    assert unsettled(value) == tail.group()


@given(start=st.integers(0, len(SOURCE)), typed=st.integers(0, 60))
def test_typing_changes_no_settled_token(start: int, typed: int) -> None:
    before = STARCODER.encode(SOURCE[:start])
    count = settled(STARCODER, SOURCE[:start], before)
    assert STARCODER.encode(SOURCE[: start + typed])[:count] == before[:count]


@pytest.mark.parametrize("name", TEXTS)
def test_the_unsettled_tail_is_found_in_linear_time(name: str) -> None:
    assert growth(unsettled, TEXTS[name], 2000) < 64


@pytest.mark.parametrize(
    "form", [Raw(), Plain(), Infill("psm"), Infill("spm", "A" * 1000)], ids=["raw", "plain", "psm", "spm"]
)
@pytest.mark.parametrize("name", TEXTS)
def test_prompts_are_made_in_linear_time(name: str, form: PromptForm) -> None:
    assert growth(lambda text: render(STARCODER, text, form, Window(256, BLOCK)), TEXTS[name], 2000) < 64
