"""Everyday gaps, asked of a running server: what is told of its answers. It fills them all with the same text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from model.pico.gaps import GAPS, right


def test_each_gap_is_told_with_its_answer(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "gaps.json"
    assert main(["gaps", "--url", url, "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert [(one["prefix"], one["suffix"]) for one in result["details"]] == [(gap.prefix, gap.suffix) for gap in GAPS]
    fits = [right(gap, one["answer"]) for gap, one in zip(GAPS, result["details"], strict=True)]
    assert [one["right"] for one in result["details"]] == fits
    assert result["metrics"] == {"right": sum(fits), "of": len(GAPS)}
    assert "for key, value in data.\u2038():" in capsys.readouterr().out


def test_who_refuses_is_not_counted_as_wrong(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gaps", "--url", url, "--served-model", "another"]) == 1
    assert "answered with 404" in capsys.readouterr().err
