"""Another start than random weights: sinusoidal positions, and first-layer heads that look one to four tokens back.

Learned absolute positions are learned one by one, so in a run of few tokens no head comes to attend to "the token
before", and without such heads nothing is copied (Olsson et al. 2022, arXiv:2209.11895). Here position is a sinusoid
(Vaswani et al. 2017, arXiv:1706.03762) in the first `head_size` entries of the residual stream, and a query is that
sinusoid rotated by the offset the head looks back. All of it is a start only: nothing is frozen.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from model.pico.network import Block, Network

AMPLITUDE = 0.06
SHARPNESS = 9.0
"""The score, in nats, by which a head prefers its offset over a position far away."""

OFFSETS = (1, 1, 2, 2, 3, 4)


@torch.no_grad()
def look_back(network: Network) -> None:
    """Writes the positions and the first layer's keys and queries; heads beyond six stay random."""
    shape, block = network.shape, network.h[0]
    assert isinstance(block, Block)
    width, size = shape.n_embd, shape.head_size
    half = size // 2
    frequency = 0.75 ** torch.arange(half)
    angle = torch.arange(shape.n_positions)[:, None] * frequency
    network.wte.weight[:, :size] = 0
    network.wpe.weight.zero_()
    network.wpe.weight[:, :half] = AMPLITUDE * angle.sin()
    network.wpe.weight[:, half:size] = AMPLITUDE * angle.cos()
    count = min(shape.vocab_size, shape.n_positions)
    seen = F.layer_norm(network.wte.weight[:count] + network.wpe.weight[:count], (width,))
    scale = torch.sqrt(SHARPNESS * size**0.5 / (2 * seen[:, :size].square().mean()))
    weight = block.attn.c_attn.weight
    weight[width : width + size] = 0
    weight[width : width + size, :size] = scale * torch.eye(size)
    for head, offset in enumerate(OFFSETS[: shape.n_head]):
        cosine, sine = ((frequency * offset).cos() * scale).diag(), ((frequency * offset).sin() * scale).diag()
        query = weight[head * size : (head + 1) * size]
        query.zero_()
        query[:half, :half], query[:half, half:size] = cosine, -sine
        query[half:, :half], query[half:, half:size] = sine, cosine
