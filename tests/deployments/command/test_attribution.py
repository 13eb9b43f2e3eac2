"""`starcoder attribution`: from files to an index, and out of it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.attribution.build import Built
from deployments.attribution.index import Index
from deployments.attribution.search import Looked
from deployments.command import attribution, cli
from deployments.settings import Settings
from model.config import ConfigError

LINES = "".join(f"value_{number} = compute({number}, {number**3})\n" for number in range(40))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "ours"
    source.mkdir()
    (source / "a.py").write_text(LINES)
    (source / "b.py").write_text("# of somebody else\n" + LINES)
    return source


def found(index: Path) -> list[tuple[str, str | None]]:
    opened = Index.open(index)
    try:
        return [(s.file, s.licence) for part in Looked(opened, "", LINES).attributions for s in part.sources]
    finally:
        opened.close()


def test_what_is_to_be_forgotten_has_to_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["attribution", "forget", str(tmp_path)])
    assert ended.value.code == 2
    assert "the following arguments are required: --opt-out" in capsys.readouterr().err


def test_build_and_forget(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "index"
    assert cli.main(["attribution", "build", str(source), "--licence", "MIT", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert "2 files;" in said.err
    assert f"starcoder serve --attribution.index {out}" in said.err
    assert set(found(out)) == {("ours/a.py", "MIT"), ("ours/b.py", "MIT")}
    names = tmp_path / "opt-out.txt"
    names.write_text("ours/b.py\n")
    assert cli.main(["attribution", "forget", str(out), "--opt-out", str(names)]) == 0
    assert capsys.readouterr().err == "1 files are forgotten\n"
    assert found(out) == [("ours/a.py", "MIT")]


def test_an_opt_out_list_holds_from_the_beginning(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names").write_text("ours/b.py\n")
    out = tmp_path / "index"
    arguments = ["attribution", "build", str(source), "--out", str(out), "--opt-out", str(tmp_path / "names")]
    assert cli.main(arguments) == 0
    assert "1 files, 1 of them without a known licence, 1 left out since they opted out" in capsys.readouterr().err
    assert found(out) == [("ours/a.py", None)]


def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["attribution", "build", str(tmp_path / "nothing"), "--out", str(tmp_path / "index")]) == 2
    assert "No such file or directory" in capsys.readouterr().err
    assert cli.main(["attribution", "forget", str(tmp_path), "--opt-out", str(tmp_path / "none")]) == 2
    assert "opt-out list" in capsys.readouterr().err


def test_blocking_needs_an_index() -> None:
    with pytest.raises(ConfigError, match="block needs an index"):
        Settings.from_command_line(["--attribution.block"])
    settings = Settings.from_command_line(["--attribution.index", "somewhere", "--attribution.block"])
    assert settings.attribution.index == Path("somewhere").absolute()


@pytest.mark.parametrize("terminal", [True, False])
def test_on_a_terminal_it_says_now_and_then_how_far_it_is(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    for files in range(1, 1501):
        attribution._tell(Built(files=files))
    attribution._clear()
    said = "\r500 files\r1,000 files\r1,500 files\r\033[K" if terminal else ""
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("built", "said"),
    [
        (Built(files=1234, characters=5_678_901), "1,234 files; 5,678,901 characters"),
        (Built(files=2, opted_out=1000), "2 files, 1,000 left out since they opted out; 0 characters"),
        (Built(files=2, unknown_licences=1), "2 files, 1 of them without a known licence; 0 characters"),
        (
            Built(files=3000, opted_out=4, unknown_licences=1500),
            "3,000 files, 1,500 of them without a known licence, 4 left out since they opted out; 0 characters",
        ),
    ],
)
def test_what_an_index_came_to_is_said(
    built: Built, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []
    monkeypatch.setattr(attribution, "build", lambda *arguments: given.append(arguments) or built)
    monkeypatch.setattr(attribution.OptOut, "read", lambda path: ("list", path))
    assert cli.main(["attribution", "build", "a", "b", "--licence=MIT", "--opt-out=names"]) == 0
    out = Path("attribution-index")
    assert given == [([Path("a"), Path("b")], out, "MIT", ("list", Path("names")), attribution._tell)]
    told = capsys.readouterr()
    assert told == (f"{out}\n", f"{said}\nUse it: starcoder serve --attribution.index {out}\n")
    monkeypatch.setattr(attribution, "forget", lambda *arguments: given.append(arguments) or 1234)
    assert cli.main(["attribution", "forget", "index", "--opt-out=names"]) == 0
    assert given[1] == (Path("index"), ("list", Path("names")))
    assert capsys.readouterr() == ("", "1,234 files are forgotten\n")
