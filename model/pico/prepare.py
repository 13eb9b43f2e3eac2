"""Collects the corpus and trains the tokenizer: ``python -m model.pico.prepare --packages build/corpus``."""

from __future__ import annotations

import argparse
import json
import random
import sysconfig
from pathlib import Path

from model.pico import corpus
from model.pico.tokenizer_training import train_tokenizer


def main() -> None:
    """Writes corpus.jsonl, corpus.json (what it holds) and tokenizer.json into the work directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, action="append", default=[], help="directories of installed packages")
    parser.add_argument("--work", type=Path, default=Path("build/pico"))
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--tokenizer-bytes", type=int, default=40_000_000, help="share of the corpus the BPE sees")
    options = parser.parse_args()
    directories = [*options.packages, Path(sysconfig.get_paths()["purelib"])]
    documents, packages = corpus.collect(directories)
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
    facts = corpus.manifest(documents, packages, lambda text: len(tokenizer.encode(text).ids))
    (options.work / "corpus.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts["splits"]), f"{len(packages)} packages")


if __name__ == "__main__":
    main()
