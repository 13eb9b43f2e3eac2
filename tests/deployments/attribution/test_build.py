"""What an index is made of, and what is left out."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest

from deployments.attribution.build import MOST_BYTES, build, forget
from deployments.attribution.index import DATABASE, MOST_PLACES, Index, connect, packed, unpacked
from deployments.attribution.opt_out import OptOut
from deployments.attribution.search import MOST_SOURCES, Looked
from deployments.attribution.tiles import TILE, Compared
from model.config import ConfigError
from tests.deployments.attribution.conftest import code


def sources(directory: Path, text: str) -> set[str]:
    index = Index.open(directory)
    try:
        return {source.file for part in Looked(index, "", text).attributions for source in part.sources}
    finally:
        index.close()


def test_what_is_no_text_is_left_out(corpus: Path, tmp_path: Path, index: Index) -> None:
    assert Looked(index, "", code(101)).attributions == []
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "latin.py").write_bytes("größe = 1\n".encode("latin-1"))
    (odd / "large.py").write_text("x = 1\n" * (MOST_BYTES // 6 + 1))
    (odd / ".hidden.py").write_text(code(1))
    (odd / "link.py").symlink_to(corpus / "part1.py")
    (odd / "empty.py").write_text("")
    built = build([odd], tmp_path / "out")
    assert (built.files, built.tiles) == (1, 0)
    assert sources(tmp_path / "out", code(1)) == set()


def test_of_what_programs_fill_only_what_comes_after_is_taken(tmp_path: Path) -> None:
    top = tmp_path / "odd"
    for number, name in enumerate((".git", "__pycache__", "node_modules")):
        (top / name).mkdir(parents=True)
        (top / name / "x.py").write_text(code(number))
    (top / "zero.py").write_text("\0")
    (top / "zlatin.py").write_bytes(b"\xff")
    (top / "zzz.py").write_text("x = 1\n" + "#" * (MOST_BYTES - 6))
    built = build([top], tmp_path / "out")
    assert (built.files, built.characters) == (1, MOST_BYTES)


def test_how_far_a_build_is_is_told_after_each_file(corpus: Path, tmp_path: Path) -> None:
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    (unknown / "x.py").write_text("x = 1\n")
    seen: list[tuple[int, int]] = []
    out, began = tmp_path / "below" / "out", int(time.time())
    built = build([corpus, unknown], out, told=lambda built: seen.append((built.files, built.characters)))
    paths = [path for top in (corpus, unknown) for path in top.rglob("*") if path.is_file() and path.suffix != ".bin"]
    texts = [path.read_text() for path in paths]
    assert [files for files, _ in seen] == list(range(1, len(texts) + 1))
    assert seen[-1] == (built.files, built.characters) == (len(texts), sum(map(len, texts)))
    assert (built.opted_out, built.unknown_licences) == (0, 1)
    tiles = {hash for text in texts for hash in Compared.of(text).tiles().tolist()}
    assert built.tiles == len(tiles)
    database = connect(out)
    about = dict(database.execute("SELECT name, value FROM about"))
    database.close()
    assert began <= int(about.pop("built_at")) <= time.time()
    assert about == {"format": "1", "files": str(len(texts))}


def test_of_a_tile_that_stands_everywhere_some_places_are_kept(tmp_path: Path) -> None:
    top = tmp_path / "twins"
    top.mkdir()
    for number in range(MOST_PLACES + 4):
        (top / f"{number:02}.py").write_text(code(1))
    build([top], tmp_path / "out")
    index = Index.open(tmp_path / "out")
    hashes = Compared.of(code(1)).tiles()
    found = list(index.places(hashes))
    assert [at for at, _ in found] == list(range(len(hashes)))
    for at, places in found:
        assert places == [(number, at * TILE) for number in range(1, MOST_PLACES + 1)]
    (part,) = Looked(index, "", code(1)).attributions
    assert [source.file for source in part.sources] == [f"twins/{number:02}.py" for number in range(MOST_SOURCES)]
    index.close()


def test_a_directory_may_be_called_what_a_url_would_not(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "50% a?b#c"
    build([corpus], out)
    assert sources(out, code(1)) == {"library/part1.py"}


@pytest.mark.parametrize("text", ["", "x", "größe = 1\n\0", "a lone \udc80", "\n".join(map(str, range(5000)))])
def test_a_text_comes_out_as_it_went_in(text: str) -> None:
    assert unpacked(packed(text)) == text


def test_an_index_is_whole_or_not_there(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stopped(built: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build([corpus], out, told=stopped)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="nothing: No such file"):
        build([tmp_path / "nothing"], out)
    assert list(tmp_path.iterdir()) == []
    unfinished = tmp_path / ".out.unfinished"  # of a build that was killed
    unfinished.mkdir()
    (unfinished / DATABASE).write_text("half of it")
    build([corpus], out)
    assert list(tmp_path.iterdir()) == [out]
    with pytest.raises(ConfigError, match="is there already"):
        build([corpus], out)


def test_a_disk_that_is_full_is_told(corpus: Path, tmp_path: Path) -> None:
    def full(built: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(ConfigError, match="out: database or disk is full"):
        build([corpus], tmp_path / "out", told=full)
    assert list(tmp_path.iterdir()) == []


def test_directories_of_one_name_are_refused(tmp_path: Path) -> None:
    for project in ("one", "other"):
        (tmp_path / project / "src").mkdir(parents=True)
    with pytest.raises(ConfigError, match="two directories are called src"):
        build([tmp_path / "one" / "src", tmp_path / "other" / "src"], tmp_path / "out")


def test_a_name_that_is_no_utf_8_can_be_told(tmp_path: Path) -> None:
    top = tmp_path / "odd"
    top.mkdir()
    (top / os.fsdecode(b"gr\xf6\xdfe.py")).write_text(code(1))
    build([top], tmp_path / "out")
    assert sources(tmp_path / "out", code(1)) == {r"odd/gr\udcf6\udcdfe.py"}


def test_a_damaged_index_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no index"):
        Index.open(tmp_path)
    build([corpus], tmp_path / "out")
    database = sqlite3.connect(tmp_path / "out" / DATABASE)
    with database:
        database.execute("UPDATE about SET value = '0' WHERE name = 'format'")
    database.close()
    with pytest.raises(ConfigError, match=f"{tmp_path / 'out'} is no index .*: its format is 0, not 1: build it anew"):
        Index.open(tmp_path / "out")
    for damage, told in (
        ("", "its format is 0, not 1"),
        ("DELETE FROM about", "its format is None"),
        ("DROP TABLE about", "no such table"),
    ):
        database = sqlite3.connect(tmp_path / "out" / DATABASE)
        database.executescript(damage)
        database.close()
        with pytest.raises(ConfigError, match=f"^{tmp_path / 'out'}: {told}"):
            forget(tmp_path / "out", OptOut())
    with pytest.raises(ConfigError, match="unable to open"):
        forget(tmp_path / "nowhere", OptOut())
    assert not (tmp_path / "nowhere").exists()


def test_who_has_opted_out_is_in_no_index(corpus: Path, tmp_path: Path) -> None:
    built = build([corpus], tmp_path / "out", opt_out=OptOut(["library/inner"]))
    assert built.opted_out == 2
    assert sources(tmp_path / "out", code(0)) == {"library/part0.py"}
    assert sources(tmp_path / "out", code(100)) == set()


def pieces_in(database: Path, file: Path) -> list[bytes]:
    """Of a file's text, as the index keeps it: what is in one page of it is in one piece."""
    data, whole = database.read_bytes(), packed(file.read_text())
    return [piece for at in range(0, len(whole) - 64, 64) if (piece := whole[at : at + 64]) in data]


def test_who_opts_out_later_is_forgotten_by_servers_that_run(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build([corpus], out)
    running = Index.open(out)
    assert Looked(running, "", code(100)).attributions
    assert pieces_in(out / DATABASE, corpus / "inner" / "tagged.c")
    assert forget(out, OptOut(["library/inner/*", "other"])) == 2
    assert Looked(running, "", code(100)).attributions == []
    assert Looked(running, "", code(1)).attributions
    assert not pieces_in(out / DATABASE, corpus / "inner" / "tagged.c")
    running.close()
    database = connect(out)
    assert database.execute("SELECT count(*) FROM files WHERE path LIKE '%inner%'").fetchone() == (0,)
    database.close()


def test_what_is_half_forgotten_is_not_named_and_goes_next_time(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build([corpus], out)
    running, database = Index.open(out), connect(out, "rw")
    with database:
        database.execute("DELETE FROM files WHERE path LIKE '%inner%'")
    assert Looked(running, "", code(100)).attributions == []
    running.close()
    orphans = "SELECT count(*) FROM tiles WHERE file NOT IN (SELECT id FROM files)"
    assert database.execute(orphans).fetchone() > (0,)
    assert forget(out, OptOut()) == 0
    assert database.execute(orphans).fetchone() == (0,)
    database.close()


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("ann", "ann/two\nlines.py", True),
        ("/ann/x.py", "ann/x.py", True),
        ("Xavier.py", "Xavier.py", True),
        ("ann", "ann/x.py", True),
        ("ann/", "ann/deep/x.py", True),
        ("ann", "anna/x.py", False),
        ("*/secret.py", "ann/a/secret.py", True),
        ("ann/[x]", "ann/x", True),
        ("ann.b", "annxb", False),
    ],
)
def test_patterns_of_an_opt_out_list(pattern: str, name: str, found: bool, tmp_path: Path) -> None:
    path = tmp_path / "list"
    for before in (" # who does not want to be here\n\n", "\ufeff"):
        path.write_text(f"{before}{pattern}\n")
        assert (name in OptOut.read(path)) is found
        assert "# who does not want to be here" not in OptOut.read(path)
    assert name not in OptOut()
    assert name not in OptOut.read(None)
    assert (name in OptOut(["x", pattern, "y"])) is found


def test_an_opt_out_list_that_cannot_be_read_stops_the_build(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="opt-out list"):
        OptOut.read(tmp_path / "nowhere")
