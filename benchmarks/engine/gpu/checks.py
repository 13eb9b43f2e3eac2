"""Whether our kernels, and the steps that are recorded with them, give what the definition gives on this device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.engine.gpu.context import Context
from benchmarks.engine.gpu.session import Found, Skip, Wrong
from benchmarks.report import Row
from model.backends.cuda import CudaBackend, tolerance
from model.backends.plain import PlainBackend
from model.batch import Batch
from model.checkpoint.memory import cache_shape
from model.checkpoint.weights import Place, Share, random_weights
from model.config import EngineConfig, ModelConfig
from model.device import to_device
from model.kernels import cuda_graphs
from model.network.attention import AttentionPlan
from model.network.parallel import TensorParallel

BLOCK = 16
LAYERS = 2
VOCABULARY = 1024
CHUNK = (37, 300)
"""New tokens of a chunk of a prompt, and its context: it is checked beside the decodes."""
DRAFTED = ((3, 70), (9, 300))
"""Rows of sequences that have drafts of 2 and 8 tokens, and their contexts: in a recorded step, beside the decodes."""


def batch_of(sequences: Sequence[tuple[int, int]], generator: np.random.Generator) -> Batch:
    """sequences: (new tokens, context), decodes first; blocks are scattered over the cache, none is shared."""
    counts, contexts = (np.array(part) for part in zip(*sequences, strict=True))
    needed = -(-contexts // BLOCK)
    order = generator.permutation(int(needed.sum()))
    tables = np.zeros((len(needed), int(needed.max())), dtype=np.int64)
    positions, slots = [], []
    for row, end in enumerate(np.cumsum(needed)):
        tables[row, : needed[row]] = order[end - needed[row] : end]
        where = np.arange(contexts[row] - counts[row], contexts[row])
        positions.append(where)
        slots.append(tables[row, where // BLOCK] * BLOCK + where % BLOCK)
    total = int(counts.sum())
    return Batch(
        tokens=generator.integers(VOCABULARY, size=total),
        positions=np.concatenate(positions),
        slots=np.concatenate(slots),
        query_lens=counts,
        context_lens=contexts,
        block_tables=tables,
        logit_rows=np.arange(total),
        num_decodes=int((counts == 1).sum()),
    )


@dataclass(frozen=True)
class Definition:
    """`attend_reference` in float32, a sequence at a time: one head after the other would take minutes here."""

    slots: torch.Tensor
    batch: Batch

    def attend(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        """queries [T, heads, head_dim], cache [2, blocks, block_size, 1, head_dim] -> [T, heads, head_dim]"""
        out = torch.empty_like(queries)
        flat = cache.flatten(1, 2)[:, :, 0]
        row = 0
        counts, contexts = self.batch.query_lens, self.batch.context_lens
        for table, count, context in zip(self.batch.block_tables, counts.tolist(), contexts.tolist(), strict=True):
            where = np.arange(context)
            keys, values = flat[:, to_device(slots_of(table, where, cache.shape[2]), queries.device)].float()
            scores = torch.einsum("qhw,cw->qhc", queries[row : row + count].float(), keys) * scale
            last = torch.arange(context - count, context, device=queries.device)
            unseen = torch.arange(context, device=queries.device) > last[:, None]
            out[row : row + count] = scores.masked_fill(unseen[:, None], float("-inf")).softmax(-1) @ values
            row += count
        return out


class DefinitionAttention:
    """Plans steps that attend by the definition."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def plan(self, batch: Batch) -> Definition:
        return Definition(to_device(batch.slots, self._device), batch)


def slots_of(table: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], block_size: int) -> npt.NDArray[np.int64]:
    return table[positions // block_size] * block_size + positions % block_size


def attention(context: Context) -> Found:
    """Each split of each context against the definition, relative to the largest value of a sequence's result."""
    kernels = _kernels(context)
    sizes = context.sizes
    batch = batch_of([*((1, n) for n in sizes.contexts), CHUNK], np.random.default_rng(0))
    blocks = int(batch.block_tables.max()) + 1
    noise = torch.Generator(context.device).manual_seed(0)
    queries, cache = (
        torch.randn(shape, generator=noise, device=context.device).to(context.dtype)
        for shape in ((len(batch.tokens), sizes.heads, sizes.width), (2, blocks, BLOCK, 1, sizes.width))
    )
    scale = sizes.width**-0.5
    exact = DefinitionAttention(context.device).plan(batch).attend(queries.float(), cache.float(), scale)
    names = [*(f"context {n}" for n in sizes.contexts), f"{CHUNK[0]} rows of {CHUNK[1]}"]
    metrics: dict[str, float] = {}
    rows: list[Row] = [("parts of a context", *names)]
    for splits in sizes.splits:
        plan = kernels(batch, splits)
        found = plan.attend(queries, cache, scale).float()
        pieces = zip(*(t.split(batch.query_lens.tolist()) for t in (found, exact)), strict=True)
        errors = [float((a - b).abs().max() / b.abs().max()) for a, b in pieces]
        rows.append((str(splits), *(f"{error:.1e}" for error in errors)))
        metrics |= {f"{splits} parts, {name}": error for name, error in zip(names, errors, strict=True)}
    return _judged(metrics, rows, tolerance(context.dtype))


def _kernels(context: Context) -> Callable[[Batch, int], AttentionPlan]:
    """Plans of our attention by the parts of every context. Raises Skip where it cannot run."""
    try:
        from model.kernels.triton_attention import TritonPlan, obstacle
    except ImportError as error:
        raise Skip(f"needs the package triton: {error}") from error
    if reason := obstacle(_model(context), context.device, context.dtype):
        raise Skip(f"our attention {reason}")
    heads, device = context.sizes.heads, context.device
    return lambda batch, splits: TritonPlan.of(batch, heads, device, programs=64, splits=splits)


def _model(context: Context) -> ModelConfig:
    """Layers of the attention that is checked, not too many of them."""
    width = context.sizes.heads * context.sizes.width
    return ModelConfig(
        vocab_size=VOCABULARY,
        n_positions=context.sizes.window,
        n_embd=width,
        n_layer=LAYERS,
        n_head=context.sizes.heads,
        n_inner=width,
    )


def recorded_step(context: Context) -> Found:
    """Recorded steps against the same steps by the definition: logits, by the largest one.

    One decodes all contexts; another has drafts and a chunk of a prompt beside them.
    """
    _kernels(context)
    model, device, dtype = _model(context), context.device, context.dtype
    share = Share(model, TensorParallel(), device, dtype)

    def weights(place: Place) -> int:
        return random_weights(share, 0, place)

    decodes = [(1, n) for n in context.sizes.contexts]
    batches = [batch_of(rows, np.random.default_rng(1)) for rows in (decodes, [*decodes, *DRAFTED, CHUNK])]
    blocks = 1 + max(int(batch.block_tables.max()) + 1 for batch in batches)  # the last is what filled-up rows write
    noise = torch.Generator(device).manual_seed(1)
    cache = torch.randn(cache_shape(model, 1, blocks, BLOCK), generator=noise, device=device).to(dtype)
    most = len(decodes) + len(DRAFTED) + 2  # one sequence more than there are
    drawn = torch.zeros(most, dtype=torch.int64, device=device)
    metrics: dict[str, float] = {}
    with torch.inference_mode():
        plain = PlainBackend(model, share.group, DefinitionAttention(device), weights)
        exact = [plain.run(batch, cache.clone(), drawn) for batch in batches]
        config = EngineConfig(model="noise", max_num_seqs=most, max_num_batched_tokens=context.sizes.recorded)
        backend = CudaBackend(share, config, "triton", weights)
        record = cuda_graphs.record if device.type == "cuda" else _eagerly
        started = time.perf_counter()
        backend.record_decodes(cache, drawn, model.n_positions, record)
        seconds = time.perf_counter() - started
        # recordings read this very cache, and the keys of one batch are not the other's
        before, found = cache.clone(), []
        for batch in batches:
            logits = backend.run(batch, cache.copy_(before), drawn)
            assert logits is not None
            found.append(logits.clone())
    rows = (
        [f"context {n}" for n in context.sizes.contexts],
        [f"{row} of both" for row in range(len(batches[1].tokens))],
    )
    for names, ours, theirs in zip(rows, found, exact, strict=True):
        assert theirs is not None
        errors = (ours - theirs).abs().amax(-1) / theirs.abs().max()
        metrics |= dict(zip(names, errors.tolist(), strict=True))
    if not backend.replays:
        raise Wrong("recorded steps differ from the same steps run kernel by kernel", Found(metrics))
    judged = _judged(metrics, [], tolerance(dtype))
    judged.metrics["recording_seconds"] = seconds
    return judged


def _eagerly(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """In the place of a graph, where there are none."""
    return run


def _judged(errors: dict[str, float], rows: list[Row], most: float) -> Found:
    largest = float(torch.tensor(list(errors.values())).max())  # not a number where one of them is none
    found = Found({"largest_error": largest, "tolerance": most, **errors}, rows)
    if not largest <= most:
        raise Wrong(f"off by {largest:.2g} of the largest value, {most:g} may be", found)
    return found
