"""What is asked about the files, and that the same is asked again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quality.code_gaps import KINDS, LONGEST_BLOCK_LINES, Around
from benchmarks.quality.own.files import Selection, SourceFile
from benchmarks.quality.own.questions import (
    MOST_OF_A_FILE,
    Piece,
    Sample,
    fingerprint,
    naming_special_tokens,
    pieces,
    questions,
)
from deployments.stop_rules.languages import language_of
from tests.support.made_up_repository import CODE, JAVA, PYTHON, RUBY

SAMPLE = Sample(gaps=50, per_file=3)


def selection(files: dict[str, str]) -> Selection:
    return Selection([SourceFile(path, language_of(path) or "other", text) for path, text in files.items()])


def many(number: int, lines: int = 30) -> dict[str, str]:
    body = "".join(f"    value_{line} = {line}\n" for line in range(lines))
    return {f"f{at}.py": f"def f{at}():\n{body}" for at in range(number)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_gap_and_what_is_around_it_are_the_file(kind: str) -> None:
    found = questions(selection(CODE), replace(SAMPLE, kinds=(kind,)))
    assert {question.path for question in found} == set(CODE)
    for question in found:
        text = CODE[question.path]
        assert question.prefix + question.missing + question.suffix == text
        assert any(char.isalnum() for char in question.missing)
        assert text.split("\n")[question.line - 1] in question.prefix + question.missing
        assert ("\n" in question.missing) == (kind == "block")


@pytest.mark.parametrize(
    ("text", "path", "blocks"),
    [
        (PYTHON, "a.py", {"\n    result = 0\n    for value in values:\n        result += value\n    return result"}),
        (JAVA, "A.java", {"\n        int both = first + first;\n        return both;"}),
        (RUBY, "a.rb", {'\n  text = "hello"\n  puts text'}),
        ("a:\n  b: 1\n  c: 2\n\nd: 3\n", "a.yaml", {"\n  b: 1\n  c: 2"}),
        ("def f():\n    return 1\n", "a.py", set()),
        ("def f():\n" + "    x = 1\n" * (LONGEST_BLOCK_LINES + 1), "a.py", set()),
    ],
)
def test_blocks_are_what_is_indented(text: str, path: str, blocks: set[str]) -> None:
    found = {q.missing for q in questions(selection({path: text}), replace(SAMPLE, kinds=("block",), per_file=50))}
    assert blocks <= found
    assert bool(blocks) == bool(found)


def test_the_same_seed_asks_the_same() -> None:
    files = selection(many(20))
    first, again = questions(files, SAMPLE), questions(Selection(files.files[::-1]), SAMPLE)
    assert first == again
    other = replace(SAMPLE, seed=1)
    assert fingerprint(questions(files, other), ()) != fingerprint(first, ())
    assert len({question.id for question in first}) == len(first)


def test_more_gaps_are_those_of_before_and_others() -> None:
    """So that a run with more asks only what is new."""
    files = selection(many(20))
    few, more = questions(files, replace(SAMPLE, gaps=20)), questions(files, replace(SAMPLE, gaps=40))
    assert {one.id for one in few} < {one.id for one in more}


def test_a_big_file_has_no_more_of_them_than_others() -> None:
    files = selection({**many(5, lines=4), "big.py": many(1, lines=1000)["f0.py"]})
    found = questions(files, replace(SAMPLE, kinds=("line",)))
    by_file = {path: sum(question.path == path for question in found) for path in {q.path for q in found}}
    assert set(by_file.values()) == {3}
    few = questions(files, replace(SAMPLE, kinds=("line",), gaps=6))
    assert len({question.path for question in few}) == 6


def test_each_language_has_its_own_gaps() -> None:
    files = selection({**many(20), "a.java": JAVA})
    found = questions(files, replace(SAMPLE, kinds=("line",), gaps=10, per_file=2))
    assert {lang: sum(q.language == lang for q in found) for lang in ("python", "java")} == {"python": 10, "java": 2}


def test_only_so_much_is_shown_around_a_gap() -> None:
    files = selection(many(3, lines=200))
    for question in questions(files, replace(SAMPLE, around=Around(100, 50))):
        assert len(question.prefix) <= 100
        assert len(question.suffix) <= 50


@given(st.text(alphabet="ab \n漢", max_size=700), st.integers(16, 200))
def test_each_character_is_scored_once_and_with_what_is_before_it(text: str, window: int) -> None:
    found = pieces(selection({"a.py": text}), replace(SAMPLE, window=window))
    assert "".join(piece.text[piece.begin :] for piece in found) == text
    at = 0
    for piece in found:
        assert len(piece.text) <= window
        assert text[at - piece.begin :].startswith(piece.text)
        at += len(piece.text) - piece.begin


def test_pieces_end_where_words_do_and_have_context() -> None:
    text = many(1, lines=400)["f0.py"]
    first, *others = pieces(selection({"a.py": text}), replace(SAMPLE, window=1000))
    assert first.begin == 0
    assert others
    for piece in others:
        assert piece.text[piece.begin] == "\n"
        assert not piece.text[piece.begin - 1].isspace()
    for piece in others[:-1]:
        assert piece.begin >= 400


def test_so_much_text_is_read_of_each_language_and_of_each_file() -> None:
    files = selection({**many(4, lines=2000), "a.java": JAVA})
    read = pieces(files, replace(SAMPLE, text=40_000))

    def characters(of: list[Piece]) -> int:
        return sum(len(piece.text) - piece.begin for piece in of)

    assert characters([piece for piece in read if piece.language == "python"]) == 40_000
    assert max(characters([p for p in read if p.path == path]) for path in {p.path for p in read}) == MOST_OF_A_FILE
    assert characters([piece for piece in read if piece.language == "java"]) == len(JAVA)
    assert pieces(files, replace(SAMPLE, text=0)) == []


@pytest.mark.parametrize("token", ["<fim_middle>", "<|endoftext|>", "<fim-suffix>", "<commit_after>", "<file_sep>"])
def test_files_that_spell_special_tokens_are_asked_but_not_read(token: str) -> None:
    files = selection({"a.py": PYTHON + f"END = '{token}'\n", "b.py": PYTHON})
    assert {piece.path for piece in pieces(files, SAMPLE)} == {"b.py"}
    assert naming_special_tokens(files) == 1
    assert {question.path for question in questions(files, SAMPLE)} == {"a.py", "b.py"}
