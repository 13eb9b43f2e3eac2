"""The network by PyTorch's operations, which run everywhere."""

from __future__ import annotations

import torch

from model.backends.backend import Weights, token_ids
from model.batch import Batch
from model.checkpoint.weights import Share
from model.config import ModelConfig
from model.device import to_device
from model.kernels.one_dnn import OneDnnLinear
from model.network.attention import PagedAttention
from model.network.gpt_bigcode import GPTBigCode
from model.network.layers import Form, Linear
from model.network.operations import Operations
from model.network.parallel import TensorParallel
from model.network.sdpa_attention import SdpaAttention
from model.network.striped_attention import StripedTorchAttention


def torch_attention(share: Share, block_size: int) -> PagedAttention:
    """Attention by PyTorch's operations. block_size: tokens of a block on all ranks that share a cache."""
    stripe = share.group.stripe
    if stripe.count == 1:
        return SdpaAttention(block_size, share.device, share.dtype)
    heads = share.model.n_head // share.group.size * stripe.count
    return StripedTorchAttention(heads, block_size // stripe.count, share.device, share.group)


class PlainBackend:
    """One rank's network. attention: attends. form: makes the linear layers of their weights, as they are loaded.
    operations: what stands between them; None: PyTorch's.

    packed: the layers' weights are then laid out for oneDNN. Not while they are loaded: what is read and freed between
    packed weights leaves holes in the memory.
    """

    head_is_copied = False
    late_compilations = 0

    def __init__(
        self,
        model: ModelConfig,
        group: TensorParallel,
        attention: PagedAttention,
        weights: Weights,
        form: Form = Linear,
        packed: bool = False,
        operations: Operations | None = None,
    ) -> None:
        self.head_dim = model.head_dim
        self.spare_blocks = int(group.stripe.count > 1)
        """For the tokens that other ranks keep."""
        self.network = GPTBigCode.without_storage(model, group, operations).eval()
        self._attention = attention
        self.parameter_bytes = weights(lambda name, value: self.network.place(name, value, form))
        if packed:
            self.network.replace_linears(OneDnnLinear)

    def warm_up(self, cache: torch.Tensor, drawn: torch.Tensor, max_model_len: int) -> None:
        """Nothing is to be done before the first step."""

    def run(self, batch: Batch, cache: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor | None:
        """One forward pass, as `Backend` has it."""
        device = cache.device
        positions, rows = to_device(batch.positions, device), to_device(batch.logit_rows, device)
        hidden = self.network(token_ids(batch, drawn), positions, cache, self._attention.plan(batch), rows)
        return self.network.logits(hidden) if len(batch.logit_rows) else None
