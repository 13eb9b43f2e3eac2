"""From files on disk to a first token: noise in the files that a hub would hold, and what the command says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import shapes
from benchmarks.__main__ import main
from benchmarks.engine import start
from model.config import EngineConfig
from model.pico import CHECKPOINT
from model.process.rank import Rank

SMALL = {"n_layer": 2, "n_embd": 128, "n_head": 2, "n_inner": 512}


def test_noise_is_a_checkpoint_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "small", SMALL)
    monkeypatch.setattr(start, "SHARD_BYTES", 8 << 20)
    start.write_noise(tmp_path, "small")
    files = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    named = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert sorted(set(named.values())) == files
    rank = Rank(EngineConfig(model=str(tmp_path), device="cpu", dtype="float32", num_kv_blocks=600, num_threads=1))
    rank.load()
    assert rank._runner is not None
    weight = rank._runner.backend.network.h[1].mlp.c_fc.weight  # type: ignore[union-attr]
    assert float(weight.std()) == pytest.approx(0.02, rel=0.1)
    assert not torch.equal(weight[0], weight[1])


def test_the_command_reports_what_it_read_and_how_soon_a_token_came(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "start.json"
    arguments = ["--model", str(CHECKPOINT), "--device", "cpu", "--num-threads", "1", "--output", str(output)]
    assert main(["start", *arguments]) == 0
    found = json.loads(output.read_text())
    metrics = found["metrics"]
    size = (CHECKPOINT / "model.safetensors").stat().st_size
    assert metrics["checkpoint_gbytes"] == pytest.approx(size / 1e9)
    assert 0 < metrics["weights_seconds"] <= metrics["ready_seconds"] <= metrics["first_token_seconds"]
    assert str(tmp_path) not in json.dumps(found["settings"])
    assert "first_token_seconds" in capsys.readouterr().out
    assert main(["start", *arguments, "--drop-cache"]) == 0
