"""Collects the corpus and trains the tokenizer: ``python -m model.pico.prepare --packages build/corpus``."""

from __future__ import annotations

import argparse
import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model.pico import corpus
from model.pico.tokenizer_training import plain_encoder, train_tokenizer

_AT_ONCE = 256


def encoded(texts: list[str], tokenizer: Tokenizer) -> Iterator[NDArray[np.uint16]]:
    """The ids of each text in 16 bits, special tokens' names as text."""
    plain = plain_encoder(tokenizer)
    for start in range(0, len(texts), _AT_ONCE):
        for found in plain.encode_batch(texts[start : start + _AT_ONCE], add_special_tokens=False):
            yield np.array(found.ids, np.uint16)


def main() -> None:
    """Writes corpus.jsonl, corpus.json (what it holds), tokenizer.json, and ids.npz into the work directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, action="append", default=[], help="directories of installed packages")
    parser.add_argument("--work", type=Path, default=Path("build/pico"))
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--tokenizer-bytes", type=int, default=40_000_000, help="share of the corpus the BPE sees")
    parser.add_argument("--cap", type=int, default=corpus.PACKAGE_CAP, help="bytes of one package at most")
    options = parser.parse_args()
    directories = [*options.packages, Path(sysconfig.get_paths()["purelib"])]
    documents, packages = corpus.collect(directories, options.cap)
    corpus.save(documents, options.work / "corpus.jsonl")
    texts = [d.text for d in documents if d.split == "train"]
    random.Random(0).shuffle(texts)
    sample, size = [], 0
    for text in texts:
        if size > options.tokenizer_bytes:
            break
        sample.append(text)
        size += len(text)
    tokenizer = train_tokenizer(sample, options.vocab_size)
    tokenizer.save(str(options.work / "tokenizer.json"))
    ids = list(encoded([d.text for d in documents], tokenizer))
    counts = [len(found) for found in ids]
    np.savez(options.work / "ids.npz", ids=np.concatenate(ids), counts=counts)
    facts = corpus.manifest(documents, packages, counts, options.cap)
    (options.work / "corpus.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts["splits"]), f"{len(packages)} packages")


if __name__ == "__main__":
    main()
