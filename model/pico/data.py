"""The stream of training rows: documents in random order, half of them cut for infilling, packed without waste."""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.pico.corpus import Document
from model.pico.fim import INSTEAD, MARK, transform
from model.pico.tokenizer_training import END, FILENAME, REPONAME, plain_encoder

HEADER_SHARE = 0.15
SHORTEST_PIECE = 50
LONGEST_PIECE = 1700


def pieces(text: str, longest: int, rng: random.Random) -> list[str]:
    """Cuts a document at line ends into pieces of about 50 to `longest` characters, log-uniform. Joined: the text."""
    found: list[str] = []
    start = 0
    while start < len(text):
        size = int(math.exp(rng.uniform(math.log(SHORTEST_PIECE), math.log(longest))))
        end = text.find("\n", start + size) + 1
        if end == 0 or len(text) - end < SHORTEST_PIECE:
            end = len(text)
        end = min(end, start + 2 * longest)
        found.append(text[start:end])
        start = end
    return found


class Stream:
    """Rows of ids without end. Infilling pieces are never split; plain documents go on in the next row.

    A row takes tokens from the kind that is behind its share, and fills what is left with plain text, so no row is
    padded. `state` and `restore` let a run go on exactly where it stopped.
    """

    def __init__(
        self,
        documents: list[Document],
        tokenizer: Tokenizer,
        seed: int,
        fim_share: float = 0.5,
        psm_share: float = 0.5,
    ) -> None:
        self._documents = documents
        self._fim_share, self._psm_share = fim_share, psm_share
        self._tokenizer = plain_encoder(tokenizer)
        self._rng = random.Random(seed)
        self._order: deque[int] = deque()
        self._plain: deque[int] = deque()
        self._fim: deque[str] = deque()
        self._fim_header: list[int] = []
        self._pending: list[int] = []
        self._spent = {"plain": 0, "fim": 0}
        self.epoch = -1

    def encode(self, text: str) -> list[int]:
        """Text to ids; names of special tokens in it stay plain text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _next_document(self) -> Document:
        if not self._order:
            order = list(range(len(self._documents)))
            self._rng.shuffle(order)
            self._order.extend(order)
            self.epoch += 1
        return self._documents[self._order.popleft()]

    def _header(self, document: Document) -> list[int]:
        if self._rng.random() >= HEADER_SHARE:
            return []
        name = [FILENAME, *self.encode(document.path + "\n")]
        return [REPONAME, *self.encode(document.package), *name] if self._rng.random() < 0.5 else name

    def _refill_plain(self) -> None:
        document = self._next_document()
        self._plain.extend([*self._header(document), *self.encode(document.text), END])

    def _fim_piece(self, longest: int) -> list[int]:
        while not self._fim:
            document = self._next_document()
            self._fim_header = self._header(document)
            self._fim.extend(pieces(document.text, longest, self._rng))
        return transform(self._fim.popleft(), self.encode, self._rng, self._fim_header, self._psm_share)

    def row(self, length: int) -> list[int]:
        """One row of exactly `length` ids, the middles marked."""
        row: list[int] = []
        while len(row) < length:
            left = length - len(row)
            share = self._spent["fim"] / max(1, sum(self._spent.values()))
            if share < self._fim_share and left > 64:
                piece = self._pending or self._fim_piece(min(LONGEST_PIECE, 3 * length))
                self._pending = []
                if len(piece) <= left:
                    row += piece
                    self._spent["fim"] += len(piece)
                    continue
                if len(piece) <= length:
                    self._pending = piece
                else:
                    self._plain.extend(piece)
            while not self._plain:
                self._refill_plain()
            take = min(left, len(self._plain))
            row += [self._plain.popleft() for _ in range(take)]
            self._spent["plain"] += take
        return row

    def batch(self, rows: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets, and which targets are of a middle or end it (bool), each (rows, length)."""
        marked = torch.tensor([self.row(length + 1) for _ in range(rows)])
        ids, middle, instead = marked % MARK, (marked & MARK) > 0, marked >> INSTEAD
        targets = torch.where(instead > 0, instead - 1, ids)
        return ids[:, :-1].contiguous(), targets[:, 1:].contiguous(), middle[:, 1:].contiguous()

    def state(self) -> dict[str, Any]:
        """Everything that decides the rows to come."""
        return {
            "rng": self._rng.getstate(),
            "order": list(self._order),
            "plain": list(self._plain),
            "fim": list(self._fim),
            "fim_header": self._fim_header,
            "pending": self._pending,
            "spent": dict(self._spent),
            "epoch": self.epoch,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self._rng.setstate(state["rng"])
        self._order, self._plain, self._fim = deque(state["order"]), deque(state["plain"]), deque(state["fim"])
        self._fim_header, self._pending = state["fim_header"], state["pending"]
        self._spent, self.epoch = dict(state["spent"]), state["epoch"]
