"""Makes the directory of data that a run on a GPU needs: ``python -m model.pico.gpu.pack --work build/pico_large``.

`model.pico.prepare` writes the work directory. What is held out is packed too, as prompts and texts in ids.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from model.pico import corpus
from model.pico.cases import holes
from model.pico.corpus import Document
from model.pico.evaluate import sample_documents
from model.pico.fim import prompt
from model.pico.gpu.tokens import HeldOut, Ids, Texts, write
from model.pico.prepare import encoded
from model.pico.tokenizer_training import plain_encoder


def pack(documents: list[Document], ids: list[Ids], tokenizer: Tokenizer) -> Texts:
    """Documents and their ids, neighbours in a package together: like texts compress each other."""
    order = sorted(range(len(documents)), key=lambda i: (documents[i].package.lower(), documents[i].path))
    names = list(encoded([part for i in order for part in _names(documents[i])], tokenizer))
    parts = [part for at, i in enumerate(order) for part in (names[2 * at], names[2 * at + 1], ids[i])]
    return Texts(np.concatenate(parts), np.cumsum([len(part) for part in parts]).reshape(-1, 3))


def _names(document: Document) -> tuple[str, str]:
    return document.package, document.path + "\n"


def held_out(documents: list[Document], tokenizer: Tokenizer, size: int, number: int) -> HeldOut:
    """About `size` bytes of each held-out split, and `number` masked lines of all of them."""
    plain = plain_encoder(tokenizer)

    def encode(text: str) -> list[int]:
        return list(plain.encode(text, add_special_tokens=False).ids)

    splits = {s: [d for d in documents if d.split == s] for s in ("heldout_file", "heldout_package")}
    chosen = {s: sample_documents(found, size) for s, found in splits.items()}
    cases = holes(list(itertools.chain(*splits.values())), number, seed=1)
    parts = [(encode(c.prefix), encode(c.suffix), c.line) for c in cases]
    return HeldOut(
        {s: [encode(d.text) for d in found] for s, found in chosen.items()},
        {s: sum(len(d.text.encode()) for d in found) for s, found in chosen.items()},
        [(prompt(p, s, True), prompt(p, s, False), line) for p, s, line in parts],
    )


def main() -> None:
    """Packs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="where model.pico.prepare wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bytes", type=int, default=500_000, help="held-out bytes, of files and of packages")
    parser.add_argument("--holes", type=int, default=1024)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    documents = corpus.load(options.work / "corpus.jsonl")
    saved = np.load(options.work / "ids.npz")
    ids = np.split(saved["ids"], np.cumsum(saved["counts"])[:-1])
    train = [(d, i) for d, i in zip(documents, ids, strict=True) if d.split == "train"]
    texts = pack([d for d, _ in train], [i for _, i in train], tokenizer)
    write(texts, options.out)
    held_out([d for d in documents if d.split != "train"], tokenizer, options.bytes, options.holes).write(options.out)
    for name in ("tokenizer.json", "corpus.json"):
        shutil.copyfile(options.work / name, options.out / name)
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"{len(texts):,} documents, {len(texts.ids):,} tokens, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
