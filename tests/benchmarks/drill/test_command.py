"""`python -m benchmarks drill` where servers, Prometheus and time are made up."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.drill import command
from benchmarks.drill.failure import Failure
from tests.support.drilled import FakePrometheus, FakeStand, FakeTime, firing_from

CALM = ["rollout"]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of failures whose servers do not start. Of the others `queue-full` brings its page after a while."""
    time, names = FakeTime(1000.0), set[str]()

    @contextlib.contextmanager
    def place(failure: Failure, seed: int, scrape_s: float) -> Iterator[FakeStand]:
        if failure.name in names:
            raise RuntimeError("the server does not start")
        page = {"StarcoderErrorBudgetFastBurn": firing_from(time.now + 100)}
        yield FakeStand(FakePrometheus(time, page if failure.name == "queue-full" else {}))

    monkeypatch.setattr(command, "place", place)
    monkeypatch.setattr(command, "Clock", lambda: time.clock)
    monkeypatch.setattr("benchmarks.drill.harm.os.kill", lambda pid, number: None)
    return names


def read(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def names(found: dict[str, Any]) -> list[str]:
    return [finding["failure"] for finding in found["details"]]


def test_a_run_keeps_what_others_found(refused: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "drill.json"
    assert main(["drill", "--only", *CALM, "--output", str(output)]) == 0
    assert names(read(output)) == ["rollout"]
    assert main(["drill", "--only", "queue-full", "--output", str(output)]) == 0
    found = read(output)
    assert names(found) == ["queue-full", "rollout"]
    assert found["metrics"] == {"failures": 2, "as_expected": 2}
    (alert,) = found["details"][0]["alerts"]
    assert (alert["name"], alert["firing_s"]) == ("StarcoderErrorBudgetFastBurn", 40.0)
    said = capsys.readouterr()
    assert "queue-full: StarcoderErrorBudgetFastBurn after 40 s" in said.err
    assert "rightly none within 260 s" in said.out


def test_a_server_that_does_not_start_does_not_keep_the_others_from_being_tried(
    refused: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused.add("queue-full")
    output = tmp_path / "drill.json"
    assert main(["drill", "--only", "queue-full", "rollout", "--output", str(output)]) == 1
    assert names(read(output)) == ["rollout"]
    said = capsys.readouterr().err.splitlines()
    assert said[1] == "  queue-full was not tried: the server does not start"
    assert said[-1] == "benchmarks drill: not tried: queue-full"


def test_what_cannot_be_begun(refused: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drill", "--only", "roll-out"]) == 2
    assert "there is no failure 'roll-out'" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("{}")
    assert main(["drill", "--quick", "--output", str(tmp_path / "other.json")]) == 2
    assert "holds no drill" in capsys.readouterr().err


def test_quick_tries_one(refused: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused.add("engine-killed")
    assert main(["drill", "--quick"]) == 1
    assert capsys.readouterr().err.count("not tried") == 2
