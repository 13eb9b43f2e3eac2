"""The token file: the training texts as ids in 16 bits, compressed, and what is held out beside them.

It is made once, where the texts are (`pack`), and is all that the machine with the GPU needs.
"""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Ids = NDArray[np.uint16]

TOKENS, INDEX, HELD_OUT = "tokens.xz", "index.npz", "heldout.json"

_FILTERS: list[dict[str, Any]] = [
    {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 28, "lc": 0, "lp": 1, "pb": 1, "nice_len": 273}
]
"""Texts of one package stand together, and the dictionary reaches back over all of them."""


@dataclass(frozen=True)
class Texts:
    """Documents one after another: each is its package's name, its path and a newline, and its text.

    ids: (N,) of all. ends: (D, 3) int64, where the name, the path and the text of each document end.
    """

    ids: Ids
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    def parts(self, document: int) -> tuple[Ids, Ids, Ids]:
        """The ids of a document's package, path and text."""
        start = int(self.ends[document - 1, 2]) if document else 0
        name, path, text = map(int, self.ends[document])
        return self.ids[start:name], self.ids[name:path], self.ids[path:text]


def write(texts: Texts, directory: Path) -> None:
    """Writes the token file and its index."""
    directory.mkdir(parents=True, exist_ok=True)
    data = lzma.compress(texts.ids.astype("<u2").tobytes(), format=lzma.FORMAT_XZ, filters=_FILTERS)
    (directory / TOKENS).write_bytes(data)
    np.savez_compressed(directory / INDEX, lengths=np.diff(texts.ends.reshape(-1), prepend=0).astype(np.int32))


def read(directory: Path) -> Texts:
    """Reads what `write` wrote."""
    ids = np.frombuffer(lzma.decompress((directory / TOKENS).read_bytes()), "<u2")
    lengths = np.load(directory / INDEX)["lengths"].astype(np.int64)
    return Texts(ids, np.cumsum(lengths).reshape(-1, 3))


@cache
def _bytes_of_characters() -> dict[str, int]:
    """Byte-level BPE writes printable bytes as themselves, and the others as the characters from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def byte_table(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of each id. A special token's are those of its name; it never occurs in a text."""
    of = _bytes_of_characters()
    special = set(tokenizer.get_added_tokens_decoder())
    table = []
    for id in range(tokenizer.get_vocab_size()):
        token = str(tokenizer.id_to_token(id))
        table.append(token.encode() if id in special else bytes(of[character] for character in token))
    return table


@dataclass(frozen=True)
class HeldOut:
    """What a run is measured on.

    texts: per split the documents' ids, and `sizes` their bytes. holes: prompt in SPM, prompt in PSM, and the line
    that belongs there.
    """

    texts: dict[str, list[list[int]]]
    sizes: dict[str, int]
    holes: list[tuple[list[int], list[int], str]]

    def write(self, directory: Path) -> None:
        """As JSON: it is small."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / HELD_OUT).write_text(json.dumps(vars(self), separators=(",", ":")))

    @classmethod
    def read(cls, directory: Path) -> HeldOut:
        """Reads what `write` wrote."""
        found = json.loads((directory / HELD_OUT).read_text())
        holes = [(spm, psm, line) for spm, psm, line in found["holes"]]
        return cls(found["texts"], found["sizes"], holes)
