"""A start that already copies: the circuit a trained transformer uses to repeat what it has read, written by hand.

Code repeats itself, and a network learns to copy only after it has seen far more tokens than a CPU can show it: first
a head must come to attend to "the token before", then a head of a later layer must find the place where the current
token stood before and take what followed it there (induction heads, Olsson et al. 2022, arXiv:2209.11895). Both are
written into the weights here, in the terms of multi-query attention, and then trained on with everything else.

- Positions are sinusoids, (sin, cos) pairs in the first `head_size` entries of the residual stream. Most frequencies
  are spread over (0, pi), so that the product of two positions is sharp: about zero unless they are equal.
- Layer 0: the shared key is the position, and a head's query is the position rotated back by its offset (1, 2, 3);
  the shared value is a projection of the token. The heads that look 1 and 2 back write what they found into two strips
  of the residual stream that nothing else uses at first.
- Layer 1: the shared key is those strips: which tokens came before this one. A query is the current token (head 0),
  the current and the one before (heads 1 and 2). The value is the token at the matching place, written in the
  direction of its output embedding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from model.pico.network import Attention, Network
from model.pico.tokenizer_training import FIM_MIDDLE, FIM_SUFFIX

AMPLITUDE = 0.06
OFFSET_SHARPNESS = 14.0
"""Nats by which an offset head prefers its offset to other positions."""
MATCH_SHARPNESS = 14.0
"""Nats by which a match head prefers a place where the same token came before."""
OFFSETS = (1, 2, 3)
LAST_SHARE = 5 / 8
"""Of the strip for earlier tokens, the share that holds the token one back; the rest holds the one two back."""
COPY_GAIN = 3.0


def frequencies(half: int) -> Tensor:
    """(half,) radians a position: two thirds spread evenly over (0, pi), the others geometric, for what is far."""
    near = half * 2 // 3
    spread = math.pi * ((torch.arange(near) * 0.6180339887) % 1).clamp(0.02, 0.98)
    return torch.cat([spread, torch.logspace(-0.5, -3, half - near)])


def orthogonal(rows: int, columns: int) -> Tensor:
    """(rows, columns) with orthonormal rows, at random."""
    return torch.linalg.qr(torch.randn(columns, rows))[0].T.contiguous()


@torch.no_grad()
def induction(network: Network) -> None:
    """Writes positions, embeddings and the attention of layers 0 and 1. Needs 4 `head_size` <= width, 3 heads."""
    shape = network.shape
    width, size = shape.n_embd, shape.head_size
    if width < 4 * size or shape.n_head < 3 or shape.n_layer < 2:
        raise ValueError("an induction start needs two layers, three heads and a width of at least four heads")
    half, strip = size // 2, size
    position, earlier, token = slice(0, size), slice(size, size + strip), slice(size + strip, width)
    last = int(strip * LAST_SHARE)
    frequency = frequencies(half)
    angle = torch.arange(shape.n_positions)[:, None] * frequency
    network.wpe.weight.zero_()
    network.wpe.weight[:, :half] = AMPLITUDE * angle.sin()
    network.wpe.weight[:, half:size] = AMPLITUDE * angle.cos()
    network.wte.weight[:, : size + strip] = 0
    network.wte.weight[:, token] *= math.sqrt(width / (width - size - strip))

    first, second = (_attention(network, layer) for layer in (0, 1))
    sample = torch.arange(min(shape.vocab_size, shape.n_positions))
    seen = F.layer_norm(network.wte.weight[sample] + network.wpe.weight[sample], (width,))

    # Layer 0: heads that look a fixed number of tokens back.
    scale = math.sqrt(OFFSET_SHARPNESS * size**0.5 / float(seen[:, position].square().sum(1).mean()))
    query, key, value = _parts(first, size)
    key.zero_()
    key[:, position] = scale * torch.eye(size)
    for head, offset in enumerate(OFFSETS):
        part = query[head * size : (head + 1) * size]
        part.zero_()
        cosine, sine = ((frequency * offset).cos() * scale).diag(), ((frequency * offset).sin() * scale).diag()
        part[:half, :half], part[:half, half:size] = cosine, -sine
        part[half:, :half], part[half:, half:size] = sine, cosine
    value.zero_()
    value[:, token] = orthogonal(size, width - size - strip)
    out = first.c_proj.weight
    out[:, : len(OFFSETS) * size] *= 0.1
    to_strip = torch.zeros(strip, 2 * size)
    to_strip[:last, :size] = orthogonal(last, size)
    to_strip[last:, size:] = orthogonal(strip - last, size)
    # The strip should be as loud as the token it is about: its norm before the normalisation is the token's.
    found = seen @ value.T
    for rows, head in ((slice(0, last), 0), (slice(last, strip), 1)):
        columns = slice(head * size, (head + 1) * size)
        written = found @ to_strip[rows, columns].T
        to_strip[rows, columns] *= 0.02 * math.sqrt(width / 2) / float(written.norm(dim=1).mean())
    out[earlier, : 2 * size] = to_strip

    # Layer 1: heads that find where the current token stood before, by what stood before each place.
    query, key, match_value = _parts(second, size)
    after = network.wte.weight[sample] + network.wpe.weight[sample]
    after[:, earlier] += found @ (to_strip[:, :size] + to_strip[:, size:]).T
    seen_later = F.layer_norm(after, (width,))
    key.zero_()
    key[:, earlier] = torch.eye(size)
    of_current = torch.zeros(size, width)
    of_current[:last, token] = to_strip[:last, :size] @ value[:, token]
    of_current[last:, earlier] = 0
    of_previous = torch.zeros(size, width)
    # The strip of two back is compared with the strip of one back: both are projections of the same value.
    of_previous[last:, size : size + last] = to_strip[last:, size:] @ torch.linalg.pinv(to_strip[:last, :size])
    keys = seen_later @ key.T
    agree_last = float(((seen_later @ of_current.T) * keys)[:, :last].sum(1).mean()) / size**0.5
    agree_before = float(((seen_later @ of_previous.T) * keys)[:, last:].sum(1).mean()) / size**0.5
    for head, (by_last, by_before) in enumerate(((1.0, 0.0), (0.8, 0.8), (0.4, 1.2))):
        query[head * size : (head + 1) * size] = MATCH_SHARPNESS * (
            by_last / agree_last * of_current + by_before / agree_before * of_previous
        )
    match_value.zero_()
    match_value[:, token] = orthogonal(size, width - size - strip)
    out = second.c_proj.weight
    out[:, : 3 * size] *= 0.1
    loud = 0.02 * math.sqrt(width) / float((seen_later @ match_value.T).norm(dim=1).mean())
    for head in range(3):
        out[token, head * size : (head + 1) * size] += COPY_GAIN * loud * match_value[:, token].T


SUFFIX_LAYERS = (3, 4)
SUFFIX_SHARPNESS = 15.0
"""Nats by which `<fim_middle>` prefers the place of `<fim_suffix>` to others."""


@torch.no_grad()
def point_at_suffix(network: Network, ids: Tensor) -> None:
    """Writes, into a network that is trained already, a way from ``<fim_middle>`` to what `<fim_suffix>` has gathered.

    In PSM the end of the prefix is where the middle goes on, and hundreds of tokens may lie between. The place of
    ``<fim_suffix>`` learns soon what follows the prefix (`fim.transform` asks it for that); the way from
    ``<fim_middle>`` to that place is learned late. So the last head of two layers is given a query that only
    ``<fim_middle>`` has and a key that only ``<fim_suffix>`` has, in the direction of the head that it uses least.
    `ids`, (B, T) int64 on the network's device, are rows in which both occur; elsewhere the heads stay as they were.
    """
    size, width = network.shape.head_size, network.shape.n_embd
    seen: dict[int, Tensor] = {}
    layers = [network.get_submodule(f"h.{layer}") for layer in SUFFIX_LAYERS]
    hooks = [
        block.get_submodule("ln_1").register_forward_hook(
            lambda _module, _inputs, output, layer=layer: seen.__setitem__(layer, output.flatten(0, 1))
        )
        for layer, block in zip(SUFFIX_LAYERS, layers, strict=True)
    ]
    network(ids)
    for hook in hooks:
        hook.remove()
    for layer in SUFFIX_LAYERS:
        attention = _attention(network, layer)
        suffix, suffix_bias = _detector(seen[layer], ids.flatten() == FIM_SUFFIX)
        middle, middle_bias = _detector(seen[layer], ids.flatten() == FIM_MIDDLE)
        parts = attention.c_attn(seen[layer])[:, : width + size].split(size, -1)
        used = torch.stack([part.T @ part / part.square().sum() for part in parts])
        least = torch.linalg.eigh(used[:-1].sum(0) + used[-1] * len(used))[1][:, 0]
        gain = math.sqrt(SUFFIX_SHARPNESS * size**0.5)
        query, key, _value = _parts(attention, size)
        key += gain * torch.outer(least, suffix)
        query[-size:] += gain * torch.outer(least, middle)
        attention.c_attn.bias[width : width + size] += gain * suffix_bias * least
        attention.c_attn.bias[width - size : width] += gain * middle_bias * least


def _detector(x: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """A direction and a bias for which x @ direction + bias is about 1 where `found`, 0 elsewhere (least squares).

    Both kinds of place count alike in all, however rare one is.
    """
    wanted = found.to(x.dtype)
    weight = torch.where(found, 0.5 / wanted.sum(), 0.5 / (1 - wanted).sum())[:, None]
    extended = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    square = (extended * weight).T @ extended + 1e-4 * torch.eye(extended.shape[1], device=x.device)
    solved = torch.linalg.solve(square, (extended * weight).T @ wanted)
    return solved[:-1], solved[-1]


def _attention(network: Network, layer: int) -> Attention:
    found = network.h[layer].attn
    assert isinstance(found, Attention)
    return found


def _parts(attention: Attention, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of the queries, the key and the value, as views."""
    weight = attention.c_attn.weight
    width = weight.shape[1]
    return weight[:width], weight[width : width + size], weight[width + size :]
