"""The profile of a step: the parts are all there and make up the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.engine.step_profile import PHASE_NAMES, SHAPES
from model.checkpoint.hub import PICO, resolve_checkpoint
from model.kernels.native.structures import PHASES


def test_every_phase_has_a_name() -> None:
    assert tuple(PHASE_NAMES) == PHASES


@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_the_parts_make_up_the_step(kernels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "profile.json"
    arguments = ["--model", str(resolve_checkpoint(PICO, None)), "--num-threads", "1", "--no-limits"]
    more = ["--output-len", "6", "--cpu-kernels", kernels, "--output", str(output)]
    assert main(["profile", *arguments, *more]) == 0
    assert "sampling" in capsys.readouterr().out
    metrics = json.loads(output.read_text())["metrics"]
    for shape in SHAPES:
        parts = {k.partition("/")[2]: v for k, v in metrics.items() if k.startswith(f"{shape.name}/")}
        whole = parts.pop("step_ms")
        assert sum(parts.values()) == pytest.approx(whole)
        assert all(value > -0.01 for value in parts.values()), parts
