"""What draws tokens: our kernel where it is right and wanted, else the definition."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from model import drawing
from model.backends.draws import choose_draws
from model.config import EngineConfig

pytest.importorskip("triton", reason="Triton has no build for this machine")

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("attention", ["auto", "triton"])
@pytest.mark.parametrize("failure", [None, "is wrong", RuntimeError("no compiler")])
def test_where_the_kernel_is_not_right_the_definition_draws(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: str | Exception | None,
    attention: Literal["auto", "triton"],
) -> None:
    from model.kernels import draw_check, triton_draw

    asked: list[tuple[int, torch.device]] = []

    def fault(vocabulary: int, device: torch.device) -> str | None:
        asked.append((vocabulary, device))
        if isinstance(failure, Exception):
            raise failure
        return failure

    monkeypatch.setattr(draw_check, "fault", fault)
    found = choose_draws(EngineConfig(model="x", attention=attention), 50, GPU)
    assert asked == [(50, GPU)], "it is compared once, on the device and the vocabulary that it is for"
    if failure is None:
        assert isinstance(found, triton_draw.TritonDraw)
    else:
        assert found is drawing.choose
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (failure is not None)
    assert all(str(failure) in warning for warning in warnings)


def test_kernels_that_nobody_wants_are_not_compiled() -> None:
    assert choose_draws(EngineConfig(model="x"), 50, CPU) is drawing.choose
    assert choose_draws(EngineConfig(model="x", attention="torch"), 50, GPU) is drawing.choose
    assert choose_draws(EngineConfig(model="x", attention="torch"), 50, CPU) is drawing.choose


@pytest.mark.parametrize("interpreted", [False, True])
def test_on_a_cpu_the_kernel_draws_only_where_it_is_interpreted(
    interpreted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.kernels import draw_check, triton_draw

    monkeypatch.setattr(triton_draw, "INTERPRETED", interpreted)
    monkeypatch.setattr(draw_check, "fault", lambda *_: "nobody compares it there")
    found = choose_draws(EngineConfig(model="x", attention="triton"), 50, CPU)
    assert isinstance(found, triton_draw.TritonDraw) == interpreted
    assert interpreted or found is drawing.choose
