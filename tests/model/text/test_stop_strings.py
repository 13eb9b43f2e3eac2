"""Stop strings: the same result however the text is cut into chunks, and nothing held back without need."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.text.stop_strings import StopStrings

# Few letters, so that stops overlap each other and themselves.
letters = st.text("abé", max_size=20)
stops = st.lists(st.text("abé", min_size=1, max_size=5), max_size=6)


def reference(text: str, stops: list[str]) -> tuple[int, str] | None:
    """(start, stop) of the stop string whose first occurrence ends first; the longest of equals."""
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    return min(found, key=lambda hit: (hit[0] + len(hit[1]), hit[0])) if found else None


def run(matcher: StopStrings, chunks: list[str]) -> tuple[str, str | None]:
    shown = ""
    for chunk in chunks:
        result = matcher.push(chunk)
        shown += result.text
        if result.matched is not None:
            return shown, result.matched
    return shown + matcher.flush(), None


@settings(max_examples=500)
@given(text=letters, stops=stops, include=st.booleans(), data=st.data())
def test_any_chunking_equals_str_find(text: str, stops: list[str], include: bool, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    edges = [0, *cuts, len(text)]
    chunks = [text[a:b] for a, b in itertools.pairwise(edges)]
    matcher = StopStrings(stops, include)
    shown, matched = run(matcher, chunks)
    hit = reference(text, stops)
    if hit is None:
        assert (shown, matched) == (text, None)
    else:
        start, stop = hit
        assert matched == stop
        assert shown == text[: start + len(stop) if include else start]
    assert matcher.shown == len(shown)


@given(text=letters, stops=stops)
def test_holds_back_exactly_what_may_become_a_stop(text: str, stops: list[str]) -> None:
    matcher = StopStrings(stops)
    shown = ""
    for end in range(1, len(text) + 1):
        result = matcher.push(text[end - 1])
        shown += result.text
        if result.matched is not None:
            return
        possible = [k for stop in stops for k in range(1, len(stop)) if text[:end].endswith(stop[:k])]
        assert end - len(shown) == max(possible, default=0)


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["abbb", "b"], "xab", ("xa", "b")),  # a stop inside the start of a longer one
        (["b", "ab"], "xab", ("x", "ab")),  # two that end together: the longest
        (["aab"], "aaab", ("a", "aab")),  # a false start
        (["ab", "bcd"], "abcd", ("", "ab")),  # the first to be complete
    ],
)
def test_overlapping_stops(stops: list[str], text: str, expected: tuple[str, str]) -> None:
    assert run(StopStrings(stops), list(text)) == expected


def test_after_a_match_nothing_more_comes() -> None:
    matcher = StopStrings(["\n"])
    assert matcher.push("x = 1\ny = 2") == ("x = 1", "\n")
    assert matcher.push("z") == ("", "\n")
    assert matcher.flush() == ""


def test_no_stops_hold_nothing_back() -> None:
    matcher = StopStrings([])
    assert matcher.push("abc") == ("abc", None)
    assert matcher.flush() == ""


def test_empty_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopStrings(["a", ""])


def test_time_is_linear_in_text_and_stop_length() -> None:
    """The worst case for a search that starts over: a long stop that almost matches, one character a push."""
    stop = "a" * 2000 + "b"
    matcher = StopStrings([stop, *("a" * n + "c" for n in range(1, 60))])
    start = time.thread_time()
    for _ in range(20_000):
        assert matcher.push("a").matched is None
    assert matcher.push("b").matched == stop
    # 40 million comparisons would take longer than this by far; the automaton takes some 40 ms.
    assert time.thread_time() - start < 2
