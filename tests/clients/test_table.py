"""The table in docs/clients.md is the one that these tests make."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.clients.registry import clients as configured
from tests.support.client_table import ROOT, ClientTable, cells_of, clients, read_table, write_table

DOCUMENT = ROOT / "docs/clients.md"


def test_rows_and_versions_are_todays() -> None:
    """After a new pin: `pytest --client-table docs/clients.md`, with all tests of clients."""
    documented = {name: row["version"] for name, row in read_table(DOCUMENT).items()}
    assert documented == {client.name: client.version for client in clients()}


def test_what_is_tested_is_in_the_table_and_nothing_else(request: pytest.FixtureRequest) -> None:
    tested = {cell for item in request.session.items for cell in cells_of(item)}
    assert {name for name, _ in tested} <= {client.name for client in clients()}
    documented = {
        (name, dialect)
        for name, row in read_table(DOCUMENT).items()
        for dialect, cell in row.items()
        if cell and dialect != "version"
    }
    assert tested <= documented
    option = request.config.option
    if not (option.keyword or option.markexpr or option.lf or option.file_or_dir):
        assert tested == documented


def test_what_a_configuration_speaks_is_tested() -> None:
    table = read_table(DOCUMENT)
    spoken = {
        (row, dialect) for client in configured().values() for row, all_ in client.speaks.items() for dialect in all_
    }
    assert {row for row, _ in spoken} == table.keys()
    assert not [(row, dialect) for row, dialect in spoken if not table[row].get(dialect)]


def test_the_documented_run_had_no_failure() -> None:
    assert not [row for row in read_table(DOCUMENT).values() if "failed" in str(row) or "skipped" in str(row)]


def test_a_table_counts_outcomes_and_replaces_the_one_before(tmp_path: Path) -> None:
    table = ClientTable()
    for outcome in ("passed", "failed", "passed"):
        table.add([("llama.vim", "llama.cpp"), ("llama.vim", "OpenAI")], outcome)
    table.add([("minuet-ai.nvim", "OpenAI")], "skipped")
    file = tmp_path / "page.md"
    file.write_text(DOCUMENT.read_text())
    before, after = file.read_text().split("<!--")[0], file.read_text().split("-->")[-1]
    write_table(file, table.render())
    written = read_table(file)
    vim = written["llama.vim"]
    assert {dialect: vim[dialect] for dialect in vim if dialect != "version"} == {
        "OpenAI": "2 passed, 1 failed",
        "llama.cpp": "2 passed, 1 failed",
    }
    assert written["minuet-ai.nvim"]["OpenAI"] == "1 skipped"
    assert file.read_text().startswith(before)
    assert file.read_text().endswith(after)
