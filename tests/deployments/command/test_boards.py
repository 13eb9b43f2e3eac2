"""`make boards` writes what is declared where it belongs."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.command import boards


def test_every_file_is_written_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {Path("docs/new/a.md"): "naïve\n", Path("b.yml"): "b: 1\n"}
    (tmp_path / "b.yml").write_text("older and longer\n")
    monkeypatch.setattr(boards, "ROOT", tmp_path)
    monkeypatch.setattr(boards, "files", lambda: texts)
    boards.main()
    written = {path: (tmp_path / path).read_text(encoding="utf-8") for path in texts}
    assert written == texts
    assert capsys.readouterr().out == "docs/new/a.md\nb.yml\n"
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()} == texts.keys()


def test_what_is_declared_is_as_it_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read and written as UTF-8, whatever the machine's locale is."""
    read, read_text = list[Path](), Path.read_text

    def as_utf_8(path: Path, encoding: str | None = None) -> str:
        assert encoding is not None, path
        assert encoding.lower() == "utf-8"
        read.append(path)
        return read_text(path, encoding=encoding)

    monkeypatch.setattr(Path, "read_text", as_utf_8)
    made = boards.files()
    assert {boards.ROOT / "docs" / name for name in ("clients.md", "observability.md")} <= {*read}
    for path, text in made.items():
        assert as_utf_8(boards.ROOT / path, encoding="utf-8") == text, f"{path}: run `make boards`"
