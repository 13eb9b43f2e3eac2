"""Processes that make rows ahead of the training loop, in memory that both see."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model.pico.gpu.rows import Mixture, Rows
from model.pico.gpu.tokens import Ids, Texts

PATIENCE = 60.0
"""Seconds after which a worker that gives nothing is taken for dead."""


@dataclass(frozen=True)
class Batch:
    """ids, targets: (B, T). weights: (B, T), how many times each target counts. They are views of shared memory."""

    ids: Ids
    targets: Ids
    weights: NDArray[np.uint8]


def _views(memory: mmap.mmap, slot: int, tokens: int, length: int) -> Batch:
    """A slot of 5 bytes a token, as rows of `length`."""
    start, shape = slot * tokens * 5, (tokens // length, length)
    ids = np.frombuffer(memory, np.uint16, tokens, start).reshape(shape)
    targets = np.frombuffer(memory, np.uint16, tokens, start + 2 * tokens).reshape(shape)
    return Batch(ids, targets, np.frombuffer(memory, np.uint8, tokens, start + 4 * tokens).reshape(shape))


class Feed:
    """Batches of `tokens` ids each, made by `workers` processes. It must be started before CUDA is.

    `ask` orders a batch of a row length, `take` gives the next that is done: some batches late, a new length is seen.
    """

    def __init__(self, texts: Texts, tokenizer: Path, tokens: int, workers: int, seed: int, mixture: Mixture) -> None:
        slots = max(4, 2 * workers)
        self._memory, self._tokens = mmap.mmap(-1, slots * tokens * 5), tokens
        self.free = list(range(slots))
        context = multiprocessing.get_context("fork")
        self._asked: multiprocessing.queues.Queue[tuple[int, int] | None] = context.Queue()
        self._done: multiprocessing.queues.Queue[tuple[int, int]] = context.Queue()
        self._workers = [
            context.Process(target=self._work, args=(texts, tokenizer, worker, workers, seed, mixture), daemon=True)
            for worker in range(workers)
        ]
        for process in self._workers:
            process.start()

    def _work(self, texts: Texts, tokenizer: Path, worker: int, workers: int, seed: int, mixture: Mixture) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        share = list(range(worker, len(texts), workers))
        rows = Rows(texts, Tokenizer.from_file(str(tokenizer)), share, seed + worker, mixture)
        while (asked := self._asked.get()) is not None:
            slot, length = asked
            batch = _views(self._memory, slot, self._tokens, length)
            rows.fill(batch.ids, batch.targets, batch.weights)
            self._done.put((slot, length))

    def ask(self, length: int) -> None:
        """Orders a batch; there must be a free slot."""
        self._asked.put((self.free.pop(), length))

    @contextmanager
    def take(self) -> Iterator[Batch]:
        """The next batch that is done. Its memory is free again afterwards. Raises queue.Empty if none comes."""
        slot, length = self._done.get(timeout=PATIENCE)
        yield _views(self._memory, slot, self._tokens, length)
        self.free.append(slot)

    def close(self) -> None:
        """Ends the processes."""
        for process in self._workers:
            process.kill()  # what handles SIGTERM it may have from whoever started it
        for process in self._workers:
            process.join()
