"""Prometheus beside a local server, and the table of what the panels show: what the two commands do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml
from starlette.types import Receive, Scope, Send

from monitoring import panel_values, prometheus
from monitoring.boards.all import BOARDS
from monitoring.panel_values import ask, concrete, shown, table
from tests.support.http_server import serving


class Executed(Exception):
    """The process would be another one now."""


def test_prometheus_takes_the_place_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def execute(program: str, arguments: list[str]) -> None:
        raise Executed(program, arguments)

    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(prometheus.shutil, "which", {"prometheus": "/bin/prometheus"}.get)
    monkeypatch.setattr(prometheus.tempfile, "mkdtemp", lambda prefix: str(home))
    monkeypatch.setattr(prometheus.os, "execv", execute)
    with pytest.raises(Executed) as executed:
        prometheus.main(["--metrics-dir", str(tmp_path / "metrics"), "--port", "7777"])
    program, arguments = executed.value.args
    assert (program, arguments[0]) == ("/bin/prometheus", "/bin/prometheus")
    assert arguments[1:] == [
        f"--config.file={home}/prometheus.yml",
        f"--storage.tsdb.path={home}/data",
        "--web.listen-address=127.0.0.1:7777",
        "--log.level=warn",
    ]
    assert (tmp_path / "metrics" / "targets").is_dir(), "exporters announce themselves there"
    assert (home / "prometheus.yml").read_text() == prometheus.configuration(tmp_path / "metrics" / "targets")
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"Prometheus: http://127.0.0.1:7777 (data in {home})"
    assert second.startswith("Boards: ")


def test_without_prometheus_it_says_where_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prometheus.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        prometheus.main(["--metrics-dir", str(tmp_path)])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "prometheus is not installed (Debian package prometheus)\n"


def test_what_is_scraped_and_which_rules_are_evaluated(tmp_path: Path) -> None:
    made = yaml.safe_load(prometheus.configuration(tmp_path, 0.5))
    assert set(made["global"].values()) == {"0.5s"}
    (files,) = made["rule_files"]
    assert Path(files).parent == prometheus.RULES
    assert list(prometheus.RULES.glob("*.yaml"))
    (job,) = made["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": [f"{tmp_path}/*.json"], "refresh_interval": "0.5s"}]


def test_one_of_another_machine_asks_the_exporter_for_rays_page_too() -> None:
    made = yaml.safe_load(prometheus.configuration_elsewhere("node:9464", Path("/etc/rules")))
    assert made["rule_files"] == ["/etc/rules/*.yaml"]
    assert [(job["job_name"], job["metrics_path"]) for job in made["scrape_configs"]] == [
        ("starcoder", "/metrics"),
        ("ray", "/ray"),
    ]
    assert {str(job["static_configs"]) for job in made["scrape_configs"]} == {"[{'targets': ['node:9464']}]"}


SERIES: list[dict[str, Any]] = [
    {"metric": {"team": "b", "model": "m"}, "value": [0, "1234.5678"]},
    {"metric": {}, "value": [0, "NaN"]},
    {"metric": {}, "value": [0, "2"]},
]


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def url(asked: list[str]) -> Iterator[str]:
    """A Prometheus that knows SERIES, whatever it is asked, and refuses `wrong`."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        (expression,) = parse_qs(scope["query_string"].decode())["query"]
        asked.append(expression)
        refused = expression == "wrong"
        body = {"error": "it does not parse"} if refused else {"data": {"result": SERIES}}
        head = {"type": "http.response.start", "status": 400 if refused else 200, "headers": []}
        await send(head if scope["path"] == "/api/v1/query" else {**head, "status": 404})
        await send({"type": "http.response.body", "body": repr(body).replace("'", '"').encode()})

    with serving(answer) as url:
        yield url


def test_a_query_is_answered_with_labels_and_numbers_or_why_not(url: str) -> None:
    assert ask(url, "up") == [("model=m, team=b", 1234.5678), ("", 2.0)]
    with pytest.raises(ValueError, match="wrong: it does not parse"):
        ask(url, "wrong")


def test_the_table_has_a_line_for_each_panel(
    url: str, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = BOARDS[0]
    rows = shown(url, [board], "3m")
    assert [row.panel for row in rows] == list(board.panels)
    assert asked == [concrete(query, "3m") for panel in board.panels for query, _ in panel.queries]
    assert not any("$" in expression for expression in asked)
    assert all(row.complete for row in rows)
    first = rows[0]
    count = len(first.panel.queries)
    values = ", ".join(["1235", "2"] * count)
    assert table([first]).splitlines()[2] == (
        f"| {board.title.partition(': ')[2]} | {first.panel.title} | {first.panel.unit} | {2 * count} | {values} |"
    )
    output = tmp_path / "table.md"
    panel_values.main(["--prometheus", url, "--output", str(output)])
    lines = capsys.readouterr().out.splitlines()
    assert output.read_text().splitlines() == lines
    assert len(lines) == 2 + sum(len(board.panels) for board in BOARDS)


def test_the_table_says_how_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        panel_values.main(["--help"])
    told = capsys.readouterr().out
    assert told.startswith(
        "usage: python -m monitoring.panel_values [-h] [--prometheus PROMETHEUS] [--output OUTPUT]\n"
    )
    said = " ".join(told.split())
    assert "What each panel of the boards shows now: asks a Prometheus, writes a table. `python -m" in said
    assert said.endswith(
        "--prometheus PROMETHEUS its address (default: http://127.0.0.1:9090) --output OUTPUT write the table there"
    )


def test_a_panel_without_values_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel_values, "ask", lambda url, expression: [])
    (row, *_) = shown("http://nowhere", BOARDS[:1])
    assert not row.complete
    assert row.empty_queries == len(row.panel.queries)
    assert table([row]).splitlines()[2].endswith(f"| 0 | none ({row.panel.needs}) |")


def test_of_many_values_the_first_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel_values, "ask", lambda url, expression: [("", float(at)) for at in range(7)])
    (row, *_) = shown("http://nowhere", BOARDS[:1])
    assert table([row]).splitlines()[2].endswith("0, 1, 2, 3, 4, 5, ... |")
