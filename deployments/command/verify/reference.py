"""transformers' side: what its GPTBigCode says of texts, placed by accelerate over GPUs, main memory and disk.

A text is read in one pass: whether each of its tokens is the one that greedy generation would have chosen is seen from
what stands before it, so that nothing is generated here. A layer that lies on disk is fetched once for many texts.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import get_max_memory
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from deployments.command.verify.child import Say
from deployments.command.verify.memory import below_limits
from deployments.command.verify.readings import Ints, Pass, Place, Read, Reading, Role, Text
from deployments.command.verify.rounding import round_products

LIKELIEST = 32
"""Of the vocabulary, the tokens at each position whose log-probabilities are compared."""

BATCH_TOKENS = 8192
"""Of texts that are read together, each filled up to the longest of them."""

_HEAD_ROWS = 512
"""Whose logits are there at once."""

_SHARE = {"cuda": 0.85, "cpu": 0.7}
"""Of the memory that is free, for weights."""


def read(directory: Path, texts: Sequence[Text], passes: Sequence[Pass], place: Place, say: Say) -> list[Reading]:
    """Read all texts in each pass; the first is the exact one."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    ids: list[Ints] = []
    found: list[dict[Role, Read]] = [{} for _ in texts]
    for one in passes:
        say(f"transformers: loading in {one.dtype}")
        model = load(directory, one, place)
        say(f"transformers: reading {len(texts)} texts in {one.dtype}")
        reads, candidates = read_all(model, texts, ids or None)
        ids = ids or candidates
        for number, each in enumerate(reads):
            found[number][one.role] = each
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return [Reading(text, ids[i], found[i]) for i, text in enumerate(texts)]


def load(directory: Path, one: Pass, place: Place) -> Any:
    """The model, wherever there is room for it."""
    model = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=getattr(torch, one.dtype),
        attn_implementation="sdpa",
        device_map="auto",
        max_memory=_limits(place),
        offload_folder=place.scratch,
    ).eval()
    if one.rounding is not None:
        round_products(model, one.rounding, one.weights)
    return model


def _limits(place: Place) -> dict[int | str, int]:
    """Bytes that weights may take, by device."""
    free = get_max_memory()
    limits: dict[int | str, int] = {
        device: int(free[device] * _SHARE["cuda"]) for device in free if place.gpus and device != "cpu"
    }
    limits["cpu"] = place.main_memory or int(below_limits(free.get("cpu", 0)) * _SHARE["cpu"])
    return limits


def read_all(model: Any, texts: Sequence[Text], ids: Sequence[Ints] | None) -> tuple[list[Read], list[Ints]]:
    """What the model says of each text, at the tokens `ids` [n, k] of each; None: those that it holds for likeliest.

    These come second.
    """
    reads: dict[int, Read] = {}
    candidates: dict[int, Ints] = {}
    with torch.inference_mode():
        for batch in _batches(texts):
            hidden = _hidden(model, [texts[i] for i in batch])
            wanted = None if ids is None else np.concatenate([ids[i] for i in batch])
            targets = [token for i in batch for token in texts[i].tokens[texts[i].first :]]
            read, best = _read_positions(model, hidden, targets, wanted)
            start = 0
            for number in batch:
                rows = slice(start, start := start + len(texts[number].tokens) - texts[number].first)
                reads[number] = Read(read.own[rows], read.logprobs[rows], read.likeliest[rows])
                candidates[number] = best[rows]
    return [reads[i] for i in range(len(texts))], [candidates[i] for i in range(len(texts))]


def _batches(texts: Sequence[Text]) -> Iterator[list[int]]:
    """Texts of like lengths together, the longest first: if memory does not suffice, that is known at once."""
    batch: list[int] = []
    for number in sorted(range(len(texts)), key=lambda i: -len(texts[i].tokens)):
        if batch and (len(batch) + 1) * len(texts[batch[0]].tokens) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _hidden(model: Any, texts: Sequence[Text]) -> torch.Tensor:
    """What the head takes, of one text after the other at the positions that are looked at, [n, width].

    Texts are filled up behind their ends, where nothing that counts can see it.
    """
    longest = max(len(text.tokens) for text in texts) - 1
    rows = [[*text.tokens[:-1], *[0] * (longest + 1 - len(text.tokens))] for text in texts]
    weights = model.transformer.wte.weight.device
    ids = torch.tensor(rows, device=None if weights.type == "meta" else weights)
    output = model.transformer(input_ids=ids, use_cache=False).last_hidden_state
    return torch.cat([output[i, text.first - 1 : len(text.tokens) - 1] for i, text in enumerate(texts)])


def _read_positions(model: Any, hidden: torch.Tensor, tokens: Sequence[int], wanted: Ints | None) -> tuple[Read, Ints]:
    """Of n positions, whose own tokens are given, and the tokens that are asked for [n, k].

    Those of many texts at once, for the head may have to be fetched, or rounded, each time.
    """
    own, values, ids = [], [], []
    targets = torch.tensor(tokens, device=hidden.device)
    asked = None if wanted is None else torch.from_numpy(wanted).to(hidden.device).long()
    for start in range(0, len(hidden), _HEAD_ROWS):
        rows = slice(start, start + _HEAD_ROWS)
        logits = model.lm_head(hidden[rows])
        logprobs = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
        best = logprobs.topk(min(LIKELIEST, logprobs.shape[1]), dim=-1).indices
        at = best if asked is None else asked[rows].to(logprobs.device)
        own.append(logprobs.gather(1, targets[rows, None].to(logprobs.device))[:, 0])
        values.append(logprobs.gather(1, at))
        ids.append(best)
    best = torch.cat(ids).cpu()
    read = Read(torch.cat(own).double().cpu().numpy(), torch.cat(values).double().cpu().numpy(), best[:, 0].numpy())
    return read, best.int().numpy()
