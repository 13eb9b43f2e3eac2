"""Reading code and watching completions takes time linear in the text, whatever it holds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.protocol import CompletionMode
from deployments.stop_rules.beginning import Beginning
from deployments.stop_rules.languages import LANGUAGES, guess_language
from deployments.stop_rules.registry import stop_rules
from deployments.stop_rules.rule import Asked
from deployments.stop_rules.scanner import START, Scanner
from deployments.stop_rules.watcher import Code, Place, Watcher
from tests.support.linear import PIECES, is_linear, text

READ, WATCHED = 48_000, 2_400

STYLES = ("python", "javascript", "rust", "haskell", "lua", "shellscript", "other")
"""A language for each way of writing blocks, comments and strings."""

MODES: tuple[CompletionMode, ...] = ("auto", "block", "line")
RULES = [rule for rule in stop_rules().values() if rule.watches]
SPECIAL = ["<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<|endoftext|>"]


@pytest.mark.parametrize("language", STYLES)
def test_reading_code(language: str) -> None:
    scanner = Scanner(LANGUAGES[language])
    assert [kind for kind in PIECES if not is_linear(scanner.read, kind, READ)] == []


@pytest.mark.parametrize("language", STYLES)
def test_finding_the_place(language: str) -> None:
    def place(content: str) -> None:
        Place.of(language, content, content)

    assert [kind for kind in PIECES if not is_linear(place, kind, 12_000)] == []


def test_guessing_a_language() -> None:
    def guess(content: str) -> None:
        guess_language(None, None, content + "x")

    assert [kind for kind in PIECES if not is_linear(guess, kind, 8_000)] == []


def watchers(language: str, place: Place) -> list[Watcher]:
    """Of all rules; of those that the mode decides, in all modes."""
    found = []
    for rule in RULES:
        of_rule = [
            w
            for mode in (MODES if rule.of_mode else MODES[:1])
            for w in rule.watch(Asked(rule.trial.setting, mode, language, place, SPECIAL))
        ]
        assert of_rule, rule.name
        found += of_rule
    return found


@pytest.mark.parametrize("language", ["python", "javascript", "lua"])
def test_watching_a_completion(language: str) -> None:
    """Also one that a rule would have ended long ago."""
    place = Place.of(language, "x = 1\n", "\ny = a_long_name\nz = another\n")

    def watch(content: str) -> None:
        watching, code = watchers(language, place), Code(place)
        for at, char in enumerate(content):
            if at % 3 == 0:
                code.logprobs.append(-1.0)
            code.push(char)
            for watcher in watching:
                watcher.push(code)

    assert [kind for kind in PIECES if not is_linear(watch, kind, WATCHED)] == []


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_pieces_do_not_matter(language: str) -> None:
    """A text read in pieces leads where it leads as a whole."""
    scanner, generator = Scanner(LANGUAGES[language]), random.Random(0)
    units = [*"(){}[]/\\'\"`#-*= \nab:", *PIECES.values(), "--[[", "]]", "{-", "-}", "#=", "=#", "'a'", "'\\n'", "//"]
    for _ in range(100):
        content = "".join(generator.choices(units, k=generator.randrange(20)))
        spot, at = START, 0
        while at < len(content):
            size = generator.randrange(1, 6)
            spot, at = scanner.read(content[at : at + size], spot), at + size
        whole = scanner.read(content)
        assert spot.state == whole.state, content
        assert (spot.in_text, spot.in_comment, spot.comment) == (whole.in_text, whole.in_comment, whole.comment)


def test_brackets_as_deep_as_they_come() -> None:
    spot = Scanner(LANGUAGES["c"]).read("{" * 100_000)
    assert len(spot.state.open) == 100_000


WORDS = st.text("ab ", max_size=6)


@given(wanted=WORDS, line=WORDS, more=WORDS)
def test_a_beginning_is_one(wanted: str, line: str, more: str) -> None:
    beginning = Beginning(wanted, line)
    assert beginning.holds == wanted.startswith(line.rstrip())
    for at, char in enumerate(more, start=1):
        beginning.push(char)
        assert beginning.holds == wanted.startswith((line + more[:at]).rstrip())


def test_the_texts_are_as_long_as_they_say() -> None:
    assert {len(text(kind, 1000)) for kind in PIECES} == {1000}
