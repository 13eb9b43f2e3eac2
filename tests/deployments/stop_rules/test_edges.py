"""What is rare enough that whole completions seldom meet it: said one by one."""

from __future__ import annotations

import pytest

from deployments.stop_rules.watcher import SCANNED_CHARACTERS, Place, _recent, indentation
from tests.deployments.stop_rules.test_ends import end, rules


@pytest.mark.parametrize("lines", range(1, 9))
def test_lines_that_come_three_times_are_kept_once_and_eight_are_the_most(lines: int) -> None:
    """Twice is no repetition, nor are lines without a letter, nor nine lines."""
    names = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    wanted = rules("", "", "raw")
    block = "".join(f"{name}(1)\n" for name in names[:lines])
    assert end(wanted, block * 3 + "x") == (block.rstrip(), "repetition")
    assert end(wanted, block.replace("\n", "\n\n") * 3 + "x") == (block.replace("\n", "\n\n").rstrip(), "repetition")
    assert end(wanted, block * 2 + "x") == (block * 2 + "x", None)
    assert end(wanted, "1\n2\n" * 9) == ("1\n2\n" * 9, None)
    nine = "".join(f"{name}(1)\n" for name in names)
    assert end(wanted, nine * 3) == (nine * 3, None)


@pytest.mark.parametrize(
    ("suffix", "text", "kept", "rule"),
    [
        ("\n\nb = 2\n", "1\n", "1", "suffix"),  # the newline is in the suffix
        ("\r\nb = 2\n", "1\n", "1", "suffix"),
        ("\n\nb = 2\n", "1 \n", "1", "suffix"),
        ("\nb = 2\n", "1\n\n", "1", "suffix"),
        ("b = 2\n", "1\n", "1\n", None),
    ],
)
def test_a_newline_that_the_suffix_has_is_never_shown(suffix: str, text: str, kept: str, rule: str | None) -> None:
    for language in ("python", "markdown"):  # where brackets are looked at, and where they are not
        wanted = rules("a = ", suffix, "raw", language, stop_repetition=False, special=False)
        assert end(wanted, text) == end(wanted, text, tuple(range(len(text)))) == (kept, rule)


@pytest.mark.parametrize("close", ["end", "end;"])
def test_a_block_that_its_own_line_closes_is_a_statement(close: str) -> None:
    wanted = rules("if a ", "\n", "auto", "lua")
    assert end(wanted, f"then b() {close}\nc()\n") == (f"then b() {close}", "block")
    assert end(wanted, f"then b() {close}\nend\n") == (f"then b() {close}", "block"), "what closes next is around it"
    assert end(wanted, f"then\n  b()\n{close}\nc()\n") == (f"then\n  b()\n{close}", "block")


@pytest.mark.parametrize("language", ["rust", "swift", "kotlin", "scala"])
def test_comments_within_comments(language: str) -> None:
    place = Place.of(language, "f(\n/* { /* { */ { */ [", "")
    assert len(place.here.state.open) == 2, "the bracket before the comment, and the one behind it"
    inside = Place.of(language, "f(\n/* /* */ [", "")
    assert len(inside.here.state.open) == 1
    assert inside.here.state.within


def test_c_has_no_comments_within_comments() -> None:
    assert len(Place.of("c", "f(\n/* /* */ [", "").here.state.open) == 2


@pytest.mark.parametrize(
    ("prefix", "brackets"),
    [
        ("let x = a\n  / {", 1),  # a quotient
        ("let x =\n  / {", 0),  # a pattern that goes on
        ("let x =\n  /{/.test(", 1),
        ("return (\n  /[{]/.test(", 2),
    ],
)
def test_what_a_slash_is_the_line_before_tells(prefix: str, brackets: int) -> None:
    assert len(Place.of("javascript", prefix, "").here.state.open) == brackets


def test_of_a_long_prefix_the_end_is_read_from_a_line_that_is_not_indented() -> None:
    short = "x = 1\n" * 100
    assert _recent(short) == short
    functions = "".join(f"def f{number}():\n    return {number}\n" for number in range(2000))
    seen = _recent(functions)
    assert functions.endswith(seen)
    assert seen.startswith("def f")
    assert SCANNED_CHARACTERS - 100 < len(seen) <= SCANNED_CHARACTERS
    for piece in ("    y = 1\n", "x" * 50, ")\n"):
        long = piece * 4000
        assert _recent(long) == long[-SCANNED_CHARACTERS:], "there is none"


def test_a_bracket_that_was_opened_long_ago_is_read_as_far_as_the_end_is() -> None:
    for count, known in ((100, 1), (SCANNED_CHARACTERS // 6 + 100, 0)):
        assert len(Place.of("python", "f(\n" + "    y,\n" * count, "").here.state.open) == known


@pytest.mark.parametrize(("line", "columns"), [("x", 0), ("  x", 2), ("\tx", 8), ("   \tx", 8), ("\t x", 9), ("", 0)])
def test_tabs_reach_to_the_next_multiple_of_eight(line: str, columns: int) -> None:
    assert indentation(line) == columns
