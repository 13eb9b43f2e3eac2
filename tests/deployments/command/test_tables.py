"""Tables for people: columns stand below one another, and what is in them obeys nobody's terminal."""

from __future__ import annotations

import pytest

from deployments.command.tables import table


def test_columns_stand_side_by_side() -> None:
    rows = [["payments", "7", "x"], ["ml", "12345", ""], ["\x1b[31m\n", "", "é"]]
    assert table(["team", "tokens", ""], rows, numbers=[1]).splitlines() == [
        "team      tokens",
        "payments       7  x",
        "ml         12345",
        "?[31m?            é",
    ]
    assert table(["team", "tokens"], [["ml", "12345678"]]) == "team  tokens\nml    12345678"


def test_without_rows_it_has_its_headings() -> None:
    assert table(["team", "tokens"], []) == "team  tokens"


def test_a_row_has_as_many_cells_as_there_are_headings() -> None:
    for row in ([], ["ml", "1"]):
        with pytest.raises((ValueError, IndexError)):
            table(["team"], [row])
