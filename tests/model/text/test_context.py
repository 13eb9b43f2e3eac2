"""Repository context: its form, what is given up first, and that it injects nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from model.text.context import ContextFile, RepositoryContext
from model.text.fim import UnsupportedError
from model.text.prompts import Plain, render
from model.text.tokenizer import Tokenizer
from model.text.truncation import Window
from tests.support.infills import (
    BLOCK,
    EOS,
    FILENAME,
    MIDDLE,
    OTHER,
    PREFIX,
    REPONAME,
    SOURCE,
    STARCODER,
    SUFFIX,
    hostile,
    infill,
)
from tests.support.tokenizers import santacoder_rules

SANTACODER = Tokenizer(santacoder_rules())


def test_repository_context_has_starcoders_format() -> None:
    context = RepositoryContext("acme/app", "src/main.py", (ContextFile("src/util.py", "def f(): ...\n"),))
    document = [
        REPONAME,
        *STARCODER.encode("acme/app"),
        FILENAME,
        *STARCODER.encode("src/util.py"),
        *STARCODER.encode("\ndef f(): ...\n"),
        EOS,
    ]
    header = [REPONAME, *STARCODER.encode("acme/app"), FILENAME, *STARCODER.encode("src/main.py")]
    header += STARCODER.encode("\n")
    prefix, suffix = STARCODER.encode("import util\n"), STARCODER.encode("\nmain()\n")
    assert infill("import util\n", "\nmain()\n", "psm", context=context) == [
        *document, PREFIX, *header, *prefix, SUFFIX, *suffix, MIDDLE
    ]  # fmt: skip
    assert infill("import util\n", "\nmain()\n", "spm", context=context) == [
        *document, PREFIX, SUFFIX, *suffix, MIDDLE, *header, *prefix
    ]  # fmt: skip
    plain = render(STARCODER, "import util\n", Plain(context), Window(4096, BLOCK))
    assert plain == [*document, *header, *prefix]


@settings(deadline=None)
@given(name=hostile, path=hostile, content=hostile, prefix=hostile)
def test_repository_context_cannot_inject_special_tokens(name: str, path: str, content: str, prefix: str) -> None:
    context = RepositoryContext(name, path, (ContextFile(path, content),))
    ids = infill(prefix, "", context=context)
    counts = {token: ids.count(token) for token in STARCODER.special_ids if token in ids}
    allowed = {PREFIX: 1, SUFFIX: 1, MIDDLE: 1, FILENAME: 2, REPONAME: 2, EOS: 1}
    assert all(count <= allowed.get(token, 0) for token, count in counts.items())


def test_context_is_given_up_before_the_text_at_the_cursor() -> None:
    files = (ContextFile("b.py", SOURCE[:600]), ContextFile("c.py", OTHER[:600]))
    context = RepositoryContext("repo", None, files)
    sizes = []
    for length in range(0, 4000, 400):
        ids = infill(SOURCE[:length], "pass\n", "spm", 1024, context=context)
        assert len(ids) <= 1024
        text_at_cursor = STARCODER.decode(ids[ids.index(MIDDLE) + 1 :])
        assert text_at_cursor.endswith(SOURCE[:length][-1200:])
        sizes.append(ids.index(PREFIX))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 400
    assert sizes[-1] == 0


def test_the_last_file_goes_first_so_that_the_front_stays() -> None:
    files = (ContextFile("b.py", SOURCE[:900]), ContextFile("c.py", OTHER[:900]))
    whole = infill("x", "", context=RepositoryContext(None, None, files))
    short = infill("x", "", max_tokens=500, context=RepositoryContext(None, None, files))
    front = short[: short.index(PREFIX) - 1]
    assert front == whole[: len(front)]
    assert short.count(FILENAME) >= 1


def test_santacoder_has_no_repository_tokens() -> None:
    context = RepositoryContext("repo", "a.py")
    with pytest.raises(UnsupportedError, match="<reponame>"):
        render(SANTACODER, "x", Plain(context), Window(64, BLOCK))


def test_an_absurd_path_does_not_push_out_the_text() -> None:
    ids = infill("x = 1\n", "", max_tokens=64, context=RepositoryContext(None, "p/" * 500))
    assert STARCODER.decode(ids) == "x = 1\n"


@pytest.mark.parametrize("spare", range(-3, 3))
def test_the_shortest_document_takes_its_metadata_a_line_end_and_its_end(spare: int) -> None:
    context = RepositoryContext(files=(ContextFile("src/a.py", ""),))
    document = [FILENAME, *STARCODER.encode("src/a.py"), *STARCODER.encode("\n"), EOS]
    assert context.documents(STARCODER, len(document) + spare, 1000) == (document if spare >= 0 else [])


@pytest.mark.parametrize("path", ["a.py", "src/long/path/of/a.py"])
def test_a_document_is_cut_where_as_much_is_left_as_its_metadata_takes(path: str) -> None:
    files = (ContextFile(path, SOURCE), ContextFile("b.py", "x"))
    context = RepositoryContext("acme/app", files=files)
    metadata = [REPONAME, *STARCODER.encode("acme/app"), FILENAME, *STARCODER.encode(path)]
    content = STARCODER.encode("\n" + SOURCE[:4000])
    for kept in range(2 * len(metadata)):
        found = context.documents(STARCODER, len(metadata) + kept + 1, 1000)
        assert found == ([*metadata, *content[:kept], EOS] if kept >= len(metadata) else [])


def test_files_without_a_name_are_documents_without_a_line_for_it() -> None:
    context = RepositoryContext(files=(ContextFile("", "x = 1"), ContextFile("", "y = 2")))
    one, other = ([*STARCODER.encode(text), EOS] for text in ("x = 1", "y = 2"))
    assert context.documents(STARCODER, 1000, 1000) == one + other
    assert context.documents(STARCODER, len(one) + len(other), 1000) == one + other
    assert context.documents(STARCODER, len(one), 1000) == one
    assert context.documents(STARCODER, len(one) + 2, 1000) == [*one, other[0], EOS]
    assert context.documents(STARCODER, len(one) - 1, 1000) == [*one[:-2], EOS], "after one that is cut there is none"


def test_metadata_takes_a_quarter_of_the_window_at_most() -> None:
    context = RepositoryContext("acme/app", "src/a.py")
    header = [REPONAME, *STARCODER.encode("acme/app"), FILENAME, *STARCODER.encode("src/a.py"), *STARCODER.encode("\n")]
    assert context.header(STARCODER, 4 * len(header)) == header
    assert context.header(STARCODER, 4 * len(header) - 1) == []
    assert RepositoryContext(None, "src/a.py").header(STARCODER, 1000) == header[header.index(FILENAME) :]
    assert RepositoryContext("acme/app", "").header(STARCODER, 1000) == [
        *header[: header.index(FILENAME)], *STARCODER.encode("\n")
    ]  # fmt: skip
    assert RepositoryContext("", None).header(STARCODER, 1000) == []
