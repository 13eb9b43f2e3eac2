"""The embedded model's vocabulary, and a text that it was not trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from model.pico import CHECKPOINT
from model.pico.tokenizer_training import plain_encoder


@pytest.fixture(scope="session")
def held_out() -> str:
    return (Path(__file__).parents[1] / "data" / "pico_heldout.txt").read_text()


@pytest.fixture(scope="session")
def plain() -> Tokenizer:
    """Encodes the names of special tokens as text."""
    return plain_encoder(Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json")))
