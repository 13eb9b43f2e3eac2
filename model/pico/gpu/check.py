"""Measures a network where it was trained, in seconds: held-out bits per byte, masked lines, everyday gaps.

`model.pico.evaluate` measures the exported checkpoint on a CPU, against baselines; these figures are to be had at once.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from model.pico.gaps import GAPS, right
from model.pico.gpu.tokens import HeldOut
from model.pico.network import Network
from model.pico.tokenizer_training import END, plain_encoder

LINE_TOKENS, GAP_TOKENS = 40, 24

Window = tuple[list[int], int]


def _in_time(end: float) -> None:
    if time.monotonic() > end:
        raise TimeoutError("the run's time was used up")


def windows(ids: list[int], length: int) -> list[Window]:
    """A document between two ends in overlapping windows, each with the first place whose target is scored in it.

    As in `evaluate.document_nats`: a token is scored where it has at least half a window of context.
    """
    whole = [END, *ids, END]
    found, scored = list[Window](), 1
    for start in range(0, max(1, len(whole) - 1), length // 2):
        part = whole[start : start + length + 1]
        found.append((part, scored - start - 1))
        scored = start + len(part)
        if scored == len(whole):
            break
    return found


def _padded(rows: list[list[int]], device: torch.device) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [END] * (width - len(row)) for row in rows], device=device)


@torch.inference_mode()
def nats(network: Network, documents: list[list[int]], bf16: bool, end: float = math.inf, batch: int = 16) -> float:
    """The summed loss of documents, in nats. Raises TimeoutError where `end` (of `time.monotonic`) comes before it."""
    device, length = network.wte.weight.device, network.shape.n_positions
    found = sorted((w for d in documents for w in windows(d, length)), key=lambda w: len(w[0]))
    total = 0.0
    for start in range(0, len(found), batch):
        _in_time(end)
        group = found[start : start + batch]
        ids = _padded([part for part, _ in group], device)
        places = torch.arange(ids.shape[1] - 1, device=device)
        first = torch.tensor([first for _, first in group], device=device)[:, None]
        ends = torch.tensor([len(part) - 1 for part, _ in group], device=device)[:, None]
        with torch.autocast(device.type, torch.bfloat16, bf16):
            x = network.hidden(ids[:, :-1])
            logits = F.linear(x, network.wte.weight).float()
        losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(ids[:, 1:].shape)
        total += float(losses[(places >= first) & (places < ends)].double().sum())
    return total


def bits_per_byte(network: Network, held_out: HeldOut, bf16: bool, end: float = math.inf) -> dict[str, float]:
    """Of each held-out split."""
    return {
        split: round(nats(network, documents, bf16, end) / math.log(2) / held_out.sizes[split], 4)
        for split, documents in held_out.texts.items()
    }


def quick(network: Network, held_out: HeldOut, bf16: bool, documents: int = 12) -> dict[str, float]:
    """Bits a token of the first documents, cut to one window: enough to see a run's way."""
    found = [d[: network.shape.n_positions - 2] for texts in held_out.texts.values() for d in texts[:documents]]
    return {"bits_per_token": round(nats(network, found, bf16) / math.log(2) / sum(len(d) + 1 for d in found), 4)}


@torch.inference_mode()
def greedy(
    network: Network, prompts: list[list[int]], new_tokens: int, bf16: bool, end: float = math.inf, batch: int = 256
) -> list[list[int]]:
    """Greedy answers without what they end with. All is computed anew for each token: a GPU has time for that."""
    device, answers = network.wte.weight.device, [list[int]() for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch):
        group = order[start : start + batch]
        running = list(group)
        for _ in range(new_tokens):
            _in_time(end)
            rows = [prompts[i] + answers[i] for i in running]
            ids = _padded(rows, device)
            with torch.autocast(device.type, torch.bfloat16, bf16):
                x = network.hidden(ids)[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
                best = F.linear(x, network.wte.weight).argmax(-1).tolist()
            for i, id in zip(running, best, strict=True):
                answers[i].append(id)
            running = [i for i, id in zip(running, best, strict=True) if id != END]
            if not running:
                break
    return [answer[:-1] if answer[-1:] == [END] else answer for answer in answers]


def lines(
    network: Network, held_out: HeldOut, tokenizer: Tokenizer, bf16: bool, number: int, end: float
) -> dict[str, float]:
    """The share of masked lines that are given exactly, in each order of the prompt."""
    longest = network.shape.n_positions - LINE_TOKENS
    shares, cases = {}, [case for case in held_out.holes[:number] if len(case[0]) <= longest]
    for name, at in (("spm", 0), ("psm", 1)):
        answers = greedy(network, [[case[0], case[1]][at] for case in cases], LINE_TOKENS, bf16, end)
        texts = [tokenizer.decode(answer).lstrip("\n").split("\n")[0].strip() for answer in answers]
        shares[name] = sum(t == line.strip() for t, (_, _, line) in zip(texts, cases, strict=True)) / max(1, len(cases))
    return {"cases": len(cases), **shares}


def gaps(network: Network, tokenizer: Tokenizer, bf16: bool, end: float) -> dict[str, Any]:
    """What stands in the everyday gaps, and how many are as a programmer expects, in SPM."""
    plain = plain_encoder(tokenizer)

    def encode(text: str) -> list[int]:
        return list(plain.encode(text, add_special_tokens=False).ids)

    answers = greedy(network, [gap.prompt(encode, True) for gap in GAPS], GAP_TOKENS, bf16, end)
    texts = [tokenizer.decode(answer) for answer in answers]
    good = [right(gap, text) for gap, text in zip(GAPS, texts, strict=True)]
    shown = [[gap.prefix, text, ok] for gap, text, ok in zip(GAPS, texts, good, strict=True)]
    return {"right": sum(good), "of": len(GAPS), "answers": shown}


def whole(
    network: Network, held_out: HeldOut, tokenizer: Tokenizer, bf16: bool, end: float, number: int = 512
) -> dict[str, Any]:
    """All figures for which there is time until `end` (of `time.monotonic`); one that fails is left out."""
    found: dict[str, Any] = {}
    for name, measure in (
        ("bits_per_byte", lambda: bits_per_byte(network, held_out, bf16, end)),
        ("gaps", lambda: gaps(network, tokenizer, bf16, end)),
        ("lines", lambda: lines(network, held_out, tokenizer, bf16, number, end)),
    ):
        try:
            found[name] = measure()
        except Exception as error:  # the weights are written; a figure is no reason to lose the others
            found[name] = f"{type(error).__name__}: {error}"
    return found
