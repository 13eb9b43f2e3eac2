"""The table client by dialect, made by the run that tested it.

A test says whose request it makes with `@pytest.mark.client(name, dialect)`. A run that had such tests ends with the
table, and `pytest --client-table docs/clients.md` writes it there, between the two comments that name this file.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEGIN = "<!-- made by `pytest --client-table docs/clients.md`: tests/support/client_table.py -->"
END = "<!-- end of the table -->"

Cell = tuple[str, str]
"""Name of the client and dialect."""


@dataclass(frozen=True)
class Client:
    """name: as tests give it. version: of the package, or of the source that its requests were taken from."""

    name: str
    version: str


def _npm(name: str) -> Client:
    versions = json.loads((ROOT / "tests/clients/package.json").read_text())["dependencies"]
    return Client(f"{name} (npm)", versions[name])


_EVALUATION = "tests/clients/evaluation.txt"


def _pypi(name: str, file: str = "constraints.txt", called: str = "") -> Client:
    """called: in the table, where that is not how `file` spells it."""
    found = re.search(rf"^{name}==(\S+)", (ROOT / file).read_text(), re.MULTILINE)
    assert found is not None, f"{file} does not pin {name}"
    return Client(f"{called or name} (PyPI)", found.group(1))


def clients() -> list[Client]:
    """The rows, in order."""
    return [
        *(_pypi("openai"), _pypi("mistralai"), _pypi("ollama"), _pypi("huggingface_hub")),
        _pypi("text-generation", "tests/clients/text-generation.txt"),
        *map(_npm, ("openai", "@huggingface/inference", "@continuedev/openai-adapters", "tabby-agent")),
        *(_pypi("lm_eval", _EVALUATION, "lm-eval"), _pypi("evalplus", _EVALUATION)),
        Client("Tabby's extensions", "source of 2026-06-30"),
        Client("Continue's core", "source of 2026-06-18"),
        Client("llama.vim", "source of 2026-01-31"),
        Client("llama.vscode", "source of 2026-08-19"),
        Client("llm-ls: llm.nvim, llm-vscode", "source of 2026-04-07"),
        Client("minuet-ai.nvim", "source of 2026-08-07"),
    ]


def columns() -> list[str]:
    """The dialects that clients of other people speak."""
    from deployments.api.registry import dialects

    return list(dict.fromkeys(dialect.title for dialect in dialects().values() if dialect.title))


class ClientTable:
    """Counts outcomes by cell: `passed`, `failed` and `skipped`."""

    def __init__(self) -> None:
        self.outcomes: dict[Cell, list[str]] = defaultdict(list)

    def add(self, cells: Iterable[Cell], outcome: str) -> None:
        for cell in cells:
            self.outcomes[cell].append(outcome)

    def render(self) -> str:
        """A Markdown table."""
        spoken = {dialect for _, dialect in self.outcomes}
        titles = [title for title in columns() if title in spoken]
        rows = [["client", "version", *titles], ["---"] * (len(titles) + 2)]
        rows += [[one.name, one.version, *(self._cell((one.name, title)) for title in titles)] for one in clients()]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def _cell(self, cell: Cell) -> str:
        outcomes = self.outcomes.get(cell, [])
        counted = [f"{outcomes.count(kind)} {kind}" for kind in ("passed", "failed", "skipped") if kind in outcomes]
        return ", ".join(counted)


def write_table(file: Path, table: str) -> None:
    before, _, rest = file.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    file.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")


def read_table(file: Path) -> dict[str, dict[str, str]]:
    """By the name of each client: `version`, and its cell of each dialect that was tested."""
    inside = file.read_text().partition(BEGIN)[2].partition(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in inside.strip().splitlines()]
    return {name: dict(zip(rows[0][1:], cells, strict=True)) for name, *cells in rows[2:]}


def cells_of(item: pytest.Item) -> list[Cell]:
    """A mark of a test stands before those of its module, whose other clients it does not speak for."""
    nearest: list[Cell] = []
    for node, mark in item.iter_markers_with_node("client"):
        if nearest and node is not item:
            break
        nearest.append((mark.args[0], mark.args[1]))
    return nearest


class _Collecting:
    """Reads reports, which come from other processes where the run has several."""

    def __init__(self) -> None:
        self.table = ClientTable()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.table.add(((name, dialect) for name, dialect in getattr(report, _CELLS, ())), report.outcome)


_CELLS = "clients_and_dialects"
_COLLECTING = "collecting clients"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--client-table", type=Path, help="write the table client by dialect into this Markdown file")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Collecting(), _COLLECTING)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment,misc]
    setattr(report, _CELLS, cells_of(item))
    return report  # type: ignore[return-value]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    collecting: _Collecting = config.pluginmanager.get_plugin(_COLLECTING)
    table = collecting.table
    if not table.outcomes:
        return
    terminalreporter.section("clients by dialect")
    terminalreporter.write_line(table.render())
    if file := config.getoption("--client-table"):
        write_table(file, table.render())
