"""What 8 bits cost: the figures against transformers', on the embedded model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.__main__ import main
from model.checkpoint.hub import PICO, resolve_checkpoint
from model.kernels.native import library as native
from model.text.tokenizer import Tokenizer

TEXT = "import os\n\n\ndef size(path):\n    with open(path) as file:\n        return len(file.read())\n" * 3


def test_bits_are_those_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        native.library()
    except native.Unavailable as error:
        pytest.skip(f"the kernel cannot run here: {error}")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"path": "a.py", "text": TEXT, "split": "heldout_file"}) + "\n")
    output = tmp_path / "result.json"
    arguments = ["--corpus", str(corpus), "--num-threads", "1", "--output", str(output)]
    assert main(["quantization", *arguments]) == 0
    assert "int8" in capsys.readouterr().out
    metrics = json.loads(output.read_text())["metrics"]
    directory = resolve_checkpoint(PICO, None)
    tokenizer = Tokenizer.from_checkpoint(directory)
    ids = torch.tensor([tokenizer.encode(TEXT)])
    model = AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32)
    with torch.inference_mode():
        loss = float(model(ids, labels=ids).loss)
    assert metrics["tokens"] == ids.shape[1] - 1
    assert metrics["bfloat16_perplexity"] == pytest.approx(math.exp(loss), rel=0.02)
    assert metrics["int8_perplexity"] == pytest.approx(math.exp(loss), rel=0.05)
    assert metrics["int8_same_likeliest_percent"] > 90
    assert metrics["int8_parameter_bytes"] < 0.7 * metrics["bfloat16_parameter_bytes"]
