"""Tables for people."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int] = ()) -> str:
    """Columns side by side; those in `numbers` end at the same place. What a terminal would obey is shown as `?`."""
    lines = [list(headings), *([_printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]

    def shown(line: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join(map(shown, lines))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
