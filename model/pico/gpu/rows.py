"""Rows of ids for training, made on the CPU: whole documents, and pieces cut for infilling, packed without waste."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model.pico.gpu.cuts import Document, Encoder, Kinds, hole, pieces
from model.pico.gpu.tokens import Ids, Texts, byte_table
from model.pico.tokenizer_training import END, FILENAME, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, REPONAME, plain_encoder

Weights = NDArray[np.uint8]

OPEN_DOCUMENTS = 48
WAITING_PIECES = 512


@dataclass(frozen=True)
class Mixture:
    """What the rows hold.

    plain_share: of the rows, those of plain documents alone; what pieces leave of the others is filled with them too.
    psm_share: of the pieces, the others are SPMv2. middle_weight: how many times a middle's tokens and its end count,
    as they are few. header_share: of the documents, those that carry their name. shortest, longest: of a piece, bytes;
    the longest is as many times the row's length.
    """

    plain_share: float = 0.3
    psm_share: float = 0.45
    middle_weight: int = 4
    header_share: float = 0.15
    shortest: int = 40
    longest: float = 3.0
    kinds: Kinds = field(default_factory=Kinds)


@dataclass(frozen=True)
class Chunk:
    """Ids that stay together in a row.

    targets: (n,) what is to be predicted at the place of each id, which is the id but for one place in PSM.
    weights: (n,) how many times that counts; what only a client writes, 0 times.
    """

    ids: Ids
    targets: Ids
    weights: Weights

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> Chunk:
        return Chunk(self.ids[part], self.targets[part], self.weights[part])


class Rows:
    """Rows without end from the documents of one worker: each is read once a pass as plain text, once in pieces."""

    def __init__(self, texts: Texts, tokenizer: Tokenizer, documents: list[int], seed: int, mixture: Mixture) -> None:
        """`documents` are the indices of this worker's share."""
        encoder = plain_encoder(tokenizer)
        self._encode = Encoder(lambda text: list(encoder.encode(text, add_special_tokens=False).ids))
        self._table = byte_table(tokenizer)
        self._lengths = np.array([len(b) for b in self._table], np.int64)
        self._texts, self._documents = texts, documents
        self._mixture, self._rng = mixture, random.Random(seed)
        self._orders: dict[str, list[int]] = {"plain": [], "pieces": []}
        self._rests: list[Chunk] = []
        """What is still to be read of the plain documents that are open."""
        self._pieces: list[tuple[Document, list[Ids], int, int]] = []
        """The pieces to be cut: a document, its header, and where the piece begins and ends."""
        self._pending: Chunk | None = None

    def _next(self, use: str) -> int:
        order = self._orders[use]
        if not order:
            order.extend(self._documents)
            self._rng.shuffle(order)
        return order.pop()

    def _name(self, document: int) -> list[Ids]:
        """The header of a document: its path, and the package before it in half of the cases."""
        if self._rng.random() >= self._mixture.header_share:
            return []
        package, path, _ = self._texts.parts(document)
        named = [np.array([FILENAME], np.uint16), path]
        return [np.array([REPONAME], np.uint16), package, *named] if self._rng.random() < 0.5 else named

    def _whole(self) -> Chunk:
        """A document as it stands, ended."""
        document = self._next("plain")
        ids = np.concatenate([*self._name(document), self._texts.parts(document)[2], np.array([END], np.uint16)])
        weights = np.ones(len(ids), np.uint8)
        weights[(ids == FILENAME) | (ids == REPONAME)] = 0
        return Chunk(ids, ids, weights)

    def _take_plain(self, length: int) -> list[Chunk]:
        """From documents that are open, by chance: the rows of one batch should be of many."""
        found, left = list[Chunk](), length
        while left:
            while len(self._rests) < OPEN_DOCUMENTS:
                self._rests.append(self._whole())
            at = self._rng.randrange(len(self._rests))
            rest = self._rests[at]
            found.append(rest[:left])
            left -= len(found[-1])
            if len(found[-1]) < len(rest):
                self._rests[at] = rest[len(found[-1]) :]
            else:
                self._rests[at] = self._rests[-1]
                self._rests.pop()
        return found

    def _plain_row(self, length: int) -> list[Chunk]:
        """Four in ten begin with a document's first token, half of these behind an end, as a prompt may."""
        if self._rng.random() < 0.6:
            return self._take_plain(length)
        end = np.zeros(self._rng.randint(0, 1), np.uint16)
        left = length - len(end)
        whole = self._whole()
        if len(whole) > left:
            self._rests.append(whole[left:])
        found = [Chunk(end, end, np.ones(len(end), np.uint8)), whole[:left]]
        return [*found, *self._take_plain(length - sum(map(len, found)))]

    def _piece(self, longest: int) -> Chunk:
        """One of the waiting pieces, cut and arranged."""
        mixture, rng, waiting = self._mixture, self._rng, self._pieces
        while len(waiting) < WAITING_PIECES:
            number = self._next("pieces")
            document = Document(self._texts.parts(number)[2], self._table, self._lengths, self._encode)
            header = self._name(number)
            found = pieces(document.text, mixture.shortest, longest, rng)
            waiting.extend((document, header, start, end) for start, end in found)
        at = rng.randrange(len(waiting))
        waiting[at], waiting[-1] = waiting[-1], waiting[at]
        document, header, start, end = waiting.pop()
        first, last, end = hole(document, start, end, rng, mixture.kinds)
        prefix = [*header, *document.between(start, first)]
        middle, suffix = document.between(first, last), document.between(last, end)
        return arrange(prefix, middle, suffix, rng.random() >= mixture.psm_share, mixture.middle_weight)

    def _piece_row(self, length: int) -> list[Chunk]:
        found, left = list[Chunk](), length
        longest = int(self._mixture.longest * length)
        while left > 48:
            piece = self._pending if self._pending is not None else self._piece(longest)
            self._pending = None
            if len(piece) > left:
                if len(piece) <= length:
                    self._pending = piece
                break
            found.append(piece)
            left -= len(piece)
        found.extend(self._take_plain(left))
        self._rng.shuffle(found)  # each kind stands at each position
        return found

    def fill(self, ids: Ids, targets: Ids, weights: Weights) -> None:
        """Writes one row each into (B, T) arrays: inputs, what follows each of them, and how much that counts."""
        length = ids.shape[1] + 1
        for row in range(len(ids)):
            plain = self._rng.random() < self._mixture.plain_share
            chunks = self._plain_row(length) if plain else self._piece_row(length)
            ids[row] = np.concatenate([c.ids for c in chunks])[:-1]
            targets[row] = np.concatenate([c.targets for c in chunks])[1:]
            weights[row] = np.concatenate([c.weights for c in chunks])[1:]


_PREFIX, _MIDDLE, _SUFFIX, _END = (np.array([id], np.uint16) for id in (FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, END))


def arrange(prefix: list[Ids], middle: list[Ids], suffix: list[Ids], spm: bool, weight: int) -> Chunk:
    """PSM, or StarCoder's SPM. The middle and its end count `weight` times, what only clients write not at all.

    So the network never says that a middle is to begin, whatever stands behind the cursor. What follows
    ``<fim_suffix>`` in PSM cannot be foreseen: the middle's first token is asked for there instead, since before
    ``<fim_middle>`` can find the end of the prefix, some place has to hold what comes after it.
    """
    if spm:
        parts = [_PREFIX, _SUFFIX, *suffix, _MIDDLE, *prefix, *middle, _END]
    else:
        parts = [_PREFIX, *prefix, _SUFFIX, *suffix, _MIDDLE, *middle, _END]
    ids = np.concatenate(parts)
    start = len(ids) - sum(map(len, middle)) - 1
    weights = np.ones(len(ids), np.uint8)
    weights[start:] = weight
    weights[(ids != END) & (ids <= REPONAME)] = 0
    targets = ids
    if not spm:
        after = 2 + sum(map(len, prefix))
        targets = ids.copy()
        targets[after] = ids[start]
        weights[after] = weight
    return Chunk(ids, targets, weights)
