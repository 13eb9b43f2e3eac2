"""An executor whose "network" is a hash of everything the sequence can see through the cache.

It stores token and position of every slot, reads them back through the block tables, and answers logits that depend
on the whole context. So a wrong slot, a stale or shared block, or a lost token changes the output, at no cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from model.batch import Batch, resolve
from model.drafter import DraftModel
from model.drawing import choose
from model.engine import Engine
from model.executor import Executor
from model.request import Output, Request, TokenLogprobs
from model.sampler import token_logprobs
from model.statistics import GpuMemory

VOCABULARY = 50
EOS = 0


def toy_logits(context: list[int]) -> torch.Tensor:
    """The toy network: a pseudorandom row for each context, [VOCABULARY] float32.

    Three times in four the last token decides, so that output repeats itself as code does.
    """
    return _toy_logits(tuple(context)).clone()


@lru_cache(maxsize=1 << 14)
def _toy_logits(context: tuple[int, ...]) -> torch.Tensor:
    digest = hashlib.blake2b(np.array(context, dtype=np.int64).tobytes(), digest_size=8).digest()
    noise = np.random.default_rng(int.from_bytes(digest, "little")).normal(size=VOCABULARY)
    if digest[0] % 4:
        noise[1 + context[-1] * 3 % 10] += 4
    return torch.from_numpy((noise * 2).astype(np.float32))


class ToyDraft:
    """A draft model with a cache of its own. network: what it makes of a context.

    It refuses to look at a slot that holds another position's token, or none. passes: batches that it has run.
    """

    def __init__(self, num_blocks: int, block_size: int, network: Callable[[list[int]], torch.Tensor]) -> None:
        self.slots = np.full((num_blocks * block_size, 2), -1, dtype=np.int64)
        self.passes: list[Batch] = []
        self._block_size = block_size
        self._network = network
        self._drawn = torch.empty(0, dtype=torch.int64)

    def run(self, batch: Batch) -> torch.Tensor | None:
        self.passes.append(batch)
        assert all(count == 1 for count in batch.query_lens[: batch.num_decodes])
        contexts = contexts_of(batch, self.slots, self._block_size, self._drawn)
        if not len(batch.logit_rows):
            return None
        return torch.stack([self._network(contexts[row]) for row in batch.logit_rows])

    def receive(self, count: int, tokens: torch.Tensor) -> None:
        assert len(tokens) == count
        self._drawn = tokens.clone()


def contexts_of(batch: Batch, slots: npt.NDArray[np.int64], block_size: int, drawn: torch.Tensor) -> list[list[int]]:
    """What each token of a batch looks at, itself included, once the batch is written into the cache `slots` [n, 2]."""
    assert len(set(batch.slots.tolist())) == len(batch.slots), "two tokens write one slot"
    tokens = batch.tokens
    if batch.drawn_rows is not None:
        tokens = resolve(*map(torch.from_numpy, (tokens, batch.drawn_rows)), drawn).numpy()
    slots[batch.slots, 0] = tokens
    slots[batch.slots, 1] = batch.positions
    contexts: list[list[int]] = []
    for row, (count, length) in enumerate(zip(batch.query_lens, batch.context_lens, strict=True)):
        where = [batch.block_tables[row, p // block_size] * block_size + p % block_size for p in range(length)]
        assert slots[where, 1].tolist() == list(range(length)), "a block holds another position's tokens"
        seen = slots[where, 0].tolist()
        contexts += [seen[: length - count + i + 1] for i in range(count)]
    return contexts


class ToyExecutor:
    def __init__(self, num_blocks: int, block_size: int, max_model_len: int) -> None:
        self.runner = SimpleNamespace(
            model=SimpleNamespace(eos_token_ids=(EOS,)),
            max_model_len=max_model_len,
            num_kv_blocks=num_blocks,
            block_size=block_size,
            device=torch.device("cpu"),
        )
        self.group = SimpleNamespace(size=1)
        self.freed = 0
        self.slots = np.full((num_blocks * block_size, 2), -1, dtype=np.int64)
        self.timer = SimpleNamespace(seconds=lambda: 0.0)
        self.late_compilations = 0
        self.choose_tokens = choose
        self.drawn = torch.empty(0, dtype=torch.int64)
        self.expected_broadcast = 0
        self.largest_batch = 0
        self.largest_step = 0
        self.most_logit_rows = 0
        self.computed_tokens = 0

    def run(self, batch: Batch) -> torch.Tensor | None:
        assert all(count == 1 for count in batch.query_lens[: batch.num_decodes])
        self.largest_batch = max(self.largest_batch, len(batch.query_lens))
        self.largest_step = max(self.largest_step, len(batch.tokens))
        self.computed_tokens += len(batch.tokens)
        self.most_logit_rows = max(self.most_logit_rows, len(batch.logit_rows))
        contexts = contexts_of(batch, self.slots, self.runner.block_size, self.drawn)
        self.drawn = torch.empty(0, dtype=torch.int64)  # one step's draws are for the next alone
        self.expected_broadcast = batch.broadcasts
        if not len(batch.logit_rows):
            return None
        return torch.stack([toy_logits(contexts[row]) for row in batch.logit_rows])

    def broadcast(self, tokens: torch.Tensor) -> None:
        assert len(tokens) == self.expected_broadcast, "the other ranks wait for another number of tokens"
        self.drawn = tokens.clone()

    def free_memory(self) -> None:
        self.freed += 1

    def ping(self, timeout_s: float) -> list[GpuMemory]:
        return []


def toy_engine(
    num_blocks: int = 64,
    block_size: int = 4,
    max_model_len: int = 64,
    draft: Callable[[list[int]], torch.Tensor] | None = None,
    **options: Any,
) -> Engine:
    """draft: the network of a draft model; its passes cost nothing until they are measured."""
    executor = ToyExecutor(num_blocks, block_size, max_model_len)
    if draft is not None:
        options["draft_model"] = DraftModel(ToyDraft(num_blocks, block_size, draft), cost=0.0)
    return Engine(cast(Executor, executor), **options)


def run_to_end(
    engine: Engine, outputs: dict[str, list[Output]] | None = None, after_step: Callable[[], None] = lambda: None
) -> dict[str, list[Output]]:
    """Step until nothing is left, checking integrity between steps."""
    outputs = {} if outputs is None else outputs
    for _ in range(100_000):
        if not engine.has_work():
            engine.check_integrity()
            return outputs
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        engine.check_integrity()
        after_step()
    raise AssertionError("the engine does not finish")


def tokens_of(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def naive(request: Request, max_model_len: int = 64) -> list[int]:
    """One request alone, without cache, scheduler or batch: the definition of greedy generation."""
    tokens = list(request.prompt_ids)
    barred = torch.tensor([t for t in request.barred_ids if t != EOS], dtype=torch.int64)
    while len(tokens) < max_model_len and len(tokens) - len(request.prompt_ids) < request.params.max_tokens:
        tokens.append(int(toy_logits(tokens).index_fill(0, barred, -torch.inf).argmax()))
        if tokens[-1] == EOS and not request.params.ignore_eos:
            break
    return tokens[len(request.prompt_ids) :]


def naive_prompt_logprobs(request: Request) -> list[TokenLogprobs | None]:
    """Of one prompt alone, row by row: the definition."""
    prompt, top = request.prompt_ids, request.params.prompt_logprobs
    assert top is not None
    found: list[TokenLogprobs | None] = [None]
    for position in range(1, len(prompt)):
        found += token_logprobs(toy_logits(prompt[:position]).unsqueeze(0), [prompt[position]], [top])
    return found
