"""The embedded model: its files, its tokenizer, and what it knows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTBigCodeForCausalLM

from model.pico import CHECKPOINT, card, evaluate, network
from model.pico.corpus import Document, licence_allowed
from model.pico.tokenizer_training import END, SPECIAL_TOKENS

HELD_OUT_BITS = 0.927
"""Bits per byte of the held-out sample, measured when the checkpoint was made."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(CHECKPOINT))


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(str(CHECKPOINT), dtype=torch.float32).eval()


def test_the_checkpoint_is_complete_and_small() -> None:
    files = {file.name: file.stat().st_size for file in CHECKPOINT.iterdir()}
    assert files.keys() >= {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "README.md"}
    assert sum(files.values()) <= 16_000_000


def test_it_loads_as_a_starcoder(model: Any, tokenizer: Any) -> None:
    assert type(model) is GPTBigCodeForCausalLM
    assert model.config.multi_query
    assert model.config.n_positions >= 2048
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.vocab_size % 64 == model.config.n_head % 4 == model.config.n_inner % 8 == 0


def test_special_tokens_have_starcoders_ids(tokenizer: Any) -> None:
    assert tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS) == list(range(19))
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == END
    assert tokenizer("<fim_prefix>a<fim_middle>").input_ids[0] == 1


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_round_trips(plain: Tokenizer, text: str) -> None:
    ids = plain.encode(text, add_special_tokens=False).ids
    assert plain.decode(ids, skip_special_tokens=False) == text
    assert not set(ids) & set(range(19))


def test_digits_are_single_tokens(plain: Tokenizer) -> None:
    assert [t.lstrip("Ġ") for t in plain.encode("x = 20261").tokens][-5:] == list("20261")


def test_transformers_and_the_training_network_agree(model: Any) -> None:
    net = network.load(CHECKPOINT).eval()
    ids = torch.tensor([[random.Random(i).randrange(4096) for i in range(200)]])
    with torch.inference_mode():
        torch.testing.assert_close(net(ids), model(ids).logits, atol=2e-3, rtol=2e-3)
        whole, part = net(ids[:, :128]), net(ids[:, :100])
    torch.testing.assert_close(whole[:, :100], part, atol=2e-3, rtol=2e-3)  # blocked attention, and the plain one


def test_the_held_out_loss_stays(held_out: str) -> None:
    """It is far below that of `xz` on the same bytes, and what the card tells of many other files."""
    document, net = Document("", "", held_out, "heldout_file"), network.load(CHECKPOINT).eval()
    encode = evaluate.encoder(Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json")))
    found = evaluate.bits_per_byte([document], encode, lambda ids: evaluate.document_nats(net, ids))
    assert found == pytest.approx(HELD_OUT_BITS, abs=0.02)
    assert found < 0.75 * evaluate.xz_bits_per_byte([document])
    for told in json.loads((CHECKPOINT / "evaluation.json").read_text())["bits_per_byte"].values():
        assert told["network"] == pytest.approx(found, abs=0.15)  # one file of another style


CONTINUATIONS = [
    ("from __future__ import", " annotations"),
    ('if __name__ == "__main__', '":'),
    ("import numpy as", " np"),
    ("def f(self, *args, **", "kwargs)"),
    ("    @property\n    def name(self):\n        return self._", "name"),
    ("from typing import TYPE_", "CHECKING"),
    ("class Dog(Animal):\n    def __init__(self, name):\n        super().__", "init__("),
    ("import os\nimport sys\n\npath = os.path.", "join("),
    ("import logging\n\nlogger = logging.getLogger(__", "name__)"),
    ("def greet(user_name):\n    print(user_", "name)"),
    ("from dataclasses import", " dataclass"),
    ("MAX_RETRIES = 3\n\nfor attempt in range(MAX_", "RETRIES):"),
]
"""What the model gets right, from left to right. tests/deployments/test_pico_infilling.py has what it fills in."""


@pytest.mark.parametrize(("prompt", "expected"), CONTINUATIONS)
def test_known_continuations(model: Any, plain: Tokenizer, prompt: str, expected: str) -> None:
    ids = torch.tensor([plain.encode(prompt).ids])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=END)
    assert plain.decode(out[0, ids.shape[1] :].tolist()).startswith(expected)


def test_the_checkpoint_copies(held_out: str, plain: Tokenizer) -> None:
    """Of a text that comes again, little is news."""
    ids = plain.encode(held_out).ids[:400]
    whole = torch.tensor([[END, *ids, END, *ids]])
    with torch.inference_mode():
        losses = F.cross_entropy(network.load(CHECKPOINT)(whole)[0, :-1], whole[0, 1:], reduction="none")
    assert losses[402:].mean() < 0.7 * losses[: len(ids)].mean()


def test_the_card_is_made_from_the_figures() -> None:
    figures, training, facts = (
        json.loads((CHECKPOINT / f"{name}.json").read_text()) for name in ("evaluation", "training", "corpus")
    )
    assert card.table(figures) in (CHECKPOINT / "README.md").read_text()
    assert card.render(figures, training, facts, "two shared CPU cores") == (CHECKPOINT / "README.md").read_text()
    assert all(licence_allowed(p["licence"]) for p in facts["packages"])


def test_the_better_order_is_noted(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "x"}')
    evaluate.prefer(tmp_path, "spm")
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {"eos_token": "x", "fim_mode": "spm"}
    figures = json.loads((CHECKPOINT / "evaluation.json").read_text())["infilling"]
    preferred = json.loads((CHECKPOINT / "tokenizer_config.json").read_text())["fim_mode"]
    assert preferred == ("spm" if figures["spm"] > figures["psm"] else "psm")
