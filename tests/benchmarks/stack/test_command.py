"""The command's options and tables. A run takes a cluster and a minute, and is no test."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.__main__ import build_parser, main
from benchmarks.stack.command import QUICK, check, shapes
from benchmarks.stack.comparing import Runs, result
from benchmarks.stack.load import Found
from benchmarks.stack.measuring import Measured

ROOT = Path(__file__).parents[3]


def test_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["stack", "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "--baseline CHECKOUT" in printed
    assert set(QUICK) <= set(vars(build_parser().parse_args(["stack"])))


@pytest.mark.parametrize(
    "wrong",
    [
        ("--streams", "0"),
        ("--tokens", "4096"),
        ("--step-ms", "-1"),
        ("--seconds", "0"),
        ("--baseline", "/nowhere"),
    ],
)
def test_options_that_make_no_sense(wrong: tuple[str, str]) -> None:
    assert main(["stack", *wrong]) == 2


def measured(factor: float) -> Measured:
    found = Found(2.0, 10, int(1000 * factor), 500, [0.01 * factor, 0.03 * factor], [0.1, 0.1], [0.005])
    return Measured(found, Counter({"ingress": 0.5 * factor, "proxy": 0.25, "client": 0.1}))


def test_tables_of_two_trees_and_the_floor(tmp_path: Path) -> None:
    options = build_parser().parse_args(["stack", "--streams", "1", "16", "--baseline", str(ROOT)])
    check(options)
    runs = Runs(shapes(options))
    for server, factor in (("product", 1.0), ("baseline", 2.0), ("floor", 0.5), ("product", 1.0)):
        for shape in runs.shapes:
            runs.add(server, shape, measured(factor))
    found = result(options, runs)
    assert found.metrics["product, 16 streams: tokens_per_s"] == 500
    assert found.metrics["product, 16 streams: ttft_p50_ms"] == pytest.approx(20)
    assert found.metrics["product, 1 stream: ingress_us_per_token"] == pytest.approx(500)
    assert found.metrics["product, 1 stream: updates_per_s_and_stream"] == 250
    assert found.bars["tokens a second"]["floor, 1 stream"] == 250
    text = found.text()
    ratios = text.partition("product / baseline")[2].splitlines()
    assert next(line for line in ratios if line.startswith("16 streams")).split()[2:5] == ["0.5", "0.5034", "1"]
    assert "floor, 1 stream" in text
    found.write(tmp_path / "stack.json")
    written = (tmp_path / "stack.json").read_text()
    assert "baseline_commit" in written
    assert str(ROOT) not in written
