"""The larger embedded model may be shipped. tests/deployments/test_nano_examples.py has what it fills in."""

from __future__ import annotations

from model.checkpoint.hub import resolve_checkpoint
from model.pico import NANO


def test_it_is_complete_and_may_be_shipped() -> None:
    assert resolve_checkpoint("nano") == NANO
    files = {file.name: file.stat().st_size for file in NANO.iterdir()}
    assert files.keys() >= {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "README.md"}
    assert sum(files.values()) <= 64_000_000
