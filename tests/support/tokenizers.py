"""Small byte-level BPE vocabularies, shaped like StarCoder's and SantaCoder's, trained in a blink."""

from __future__ import annotations

import argparse
import functools
import heapq
import inspect
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from model.pico.tokenizer_training import SPECIAL_TOKENS as STARCODER_SPECIAL
from model.pico.tokenizer_training import train_tokenizer

SANTACODER_SPECIAL = ("<|endoftext|>", "<fim-prefix>", "<fim-middle>", "<fim-suffix>", "<fim-pad>")

_OTHER_TEXT = "größer, naïve, 漢字の例, привет, 👩‍💻 🎉 café\n" * 20


def _train(vocab_size: int, special: Sequence[str]) -> Tokenizer:
    corpus = [inspect.getsource(module) for module in (textwrap, heapq, argparse)]
    return train_tokenizer([*corpus, _OTHER_TEXT], vocab_size, special)


@functools.cache
def _starcoder_rules(vocab_size: int) -> str:
    return _train(vocab_size, STARCODER_SPECIAL).to_str()


@functools.cache
def _santacoder_rules(vocab_size: int) -> str:
    tokenizer = _train(vocab_size, ())
    tokenizer.add_special_tokens(list(SANTACODER_SPECIAL))
    # An ordinary added token behind the special ones: its id must survive whatever is done to them.
    tokenizer.add_tokens([AddedToken("<ordinary-added>", normalized=False)])
    return tokenizer.to_str()


def starcoder_rules(vocab_size: int = 1200) -> dict[str, Any]:
    """A `tokenizer.json` with StarCoder's special tokens at ids 0 to 18 and digits split singly."""
    return json.loads(_starcoder_rules(vocab_size))


def santacoder_rules(vocab_size: int = 800) -> dict[str, Any]:
    """The same with SantaCoder's dashed special tokens behind the vocabulary."""
    return json.loads(_santacoder_rules(vocab_size))


def write_tokenizer(directory: Path, rules: dict[str, Any] | None = None) -> Path:
    """Write `rules` (StarCoder's) as a checkpoint's `tokenizer.json`; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(rules or starcoder_rules()))
    return directory
