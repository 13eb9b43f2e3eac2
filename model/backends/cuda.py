"""The network on a GPU: our Triton kernels or PyTorch's, weights in 8 bits, decode steps recorded as CUDA graphs.

Triton's kernels run on a CPU too, where they are interpreted (TRITON_INTERPRET=1, for tests).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch

from model.backends.agreement import Agreement
from model.backends.all_reduce import fused_all_reduce
from model.backends.backend import Weights
from model.backends.plain import PlainBackend, torch_attention
from model.batch import Batch
from model.checkpoint.memory import scratch_values
from model.checkpoint.weights import Share
from model.config import EngineConfig, Quantization
from model.kernels import cuda_graphs
from model.kernels.cuda_graphs import DecodeGraphs, Record, Spare
from model.kernels.mixed_graphs import MixedGraphs
from model.limits import StepLimits
from model.network.layers import Form, Linear
from model.network.operations import Operations

if TYPE_CHECKING:
    from model.kernels.triton_attention import TritonAttention
    from model.kernels.triton_stripes import StripedTritonAttention

logger = logging.getLogger(__name__)


class CudaBackend:
    """One rank's network where `choice` has found no obstacle. Only steps of Triton's attention can be recorded."""

    def __init__(
        self, share: Share, config: EngineConfig, attention: Literal["torch", "triton"], weights: Weights
    ) -> None:
        self._share = share
        self._triton = _triton_attention(share) if attention == "triton" else None
        self._eager = PlainBackend(
            share.model,
            share.group,
            self._triton or torch_attention(share, config.block_size),
            weights,
            _form(share, config.quantization),
            operations=_operations(share, config) if self._triton else None,
        )
        self.head_dim = share.model.head_dim
        self._graphs: DecodeGraphs | None = None
        self._mixed: MixedGraphs | None = None
        self._limits = StepLimits.on(
            "cuda", config.max_num_seqs, config.max_num_batched_tokens, config.speculative_tokens
        )
        self.replays = False
        """Whether recorded steps are replayed. May be switched off, to see what that is worth."""
        self.network = self._eager.network
        self.parameter_bytes = self.network.parameter_bytes
        self.head_is_copied = share.model.tie_word_embeddings and config.quantization != "none"
        self._records = (
            config.cuda_graphs
            and self._triton is not None
            and share.device.type == "cuda"
            and not share.group.shares_gpu
        )
        self.spare_blocks = int(self._records) if self._triton else self._eager.spare_blocks
        """For the rows that fill recorded steps, which Triton alone has; it keeps nothing of other ranks' tokens."""
        self._compilations = _compilations() if self._triton or config.quantization != "none" else None
        self._compiled = 0
        if share.device.type == "cuda":
            # what plain weights took is the driver's again: the cache is sized by what it says
            torch.cuda.empty_cache()

    def warm_up(self, cache: torch.Tensor, drawn: torch.Tensor, max_model_len: int) -> None:
        """Record the decode steps, where they are to be. `choice` and `Quantizer` have had all kernels compiled."""
        if self._records:
            self.record_decodes(cache, drawn, max_model_len)
        if self._compilations is not None:
            self._compiled = self._compilations()

    @property
    def late_compilations(self) -> int:
        """As `Backend` has it."""
        return 0 if self._compilations is None else self._compilations() - self._compiled

    @torch.inference_mode()
    def record_decodes(
        self, cache: torch.Tensor, drawn: torch.Tensor, max_model_len: int, record: Record = cuda_graphs.record
    ) -> None:
        """Record steps of decodes, and of chunks and drafts beside them. The cache's last block belongs to nobody.

        They are not used where they do not give what the same steps give that are not recorded.
        """
        triton = self._triton
        assert triton is not None, "the steps of PyTorch's attention are not of a fixed size"
        stripes = self._share.group.stripe.count
        block_size = cache.shape[3] * stripes
        table_width, spare = -(-max_model_len // block_size), Spare(cache.shape[2] - 1, block_size, stripes)
        mixed = MixedGraphs(
            lambda tokens, positions, plan, rows: self.network(tokens, positions, cache, plan, rows),
            triton,
            drawn,
            most_tokens=self._limits.tokens,
            most_sequences=self._limits.sequences,
            table_width=table_width,
            spare=spare,
            record=record,
        )
        decodes = DecodeGraphs(
            lambda tokens, positions, plan: self.network(tokens, positions, cache, plan),
            lambda slots, contexts, tables: triton.plan_decodes(slots, contexts, tables, max_model_len),
            drawn,
            largest=self._limits.sequences,
            table_width=table_width,
            spare=spare,
            record=record,
        )
        agreement = Agreement(self._share.group, self._share.device)
        error = float(torch.tensor([decodes.max_error(), mixed.max_error()]).max())
        if (reason := agreement.obstacle(_fault(error, self._share.dtype))) is None:
            self._graphs, self._mixed, self.replays = decodes, mixed, True
        else:
            logger.warning("steps are not replayed as CUDA graphs: %s", reason)

    def run(self, batch: Batch, cache: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor | None:
        """One forward pass, as `Backend` has it."""
        if self.replays and self._graphs is not None and self._mixed is not None:
            hidden = self._graphs.run(batch) if self._graphs.fit(batch) else self._mixed.run(batch)
            if hidden is not None:
                return self.network.logits(hidden) if len(hidden) else None
        return self._eager.run(batch, cache, drawn)


def _fault(error: float, dtype: torch.dtype) -> str | None:
    """That recorded steps are off by so much, or None."""
    return None if error <= tolerance(dtype) else f"they are off by {error:.2g} of the largest value"


def tolerance(dtype: torch.dtype) -> float:
    """How far two ways of computing the same may be apart, by values of about 1."""
    return 1e-3 if dtype is torch.float32 else 5e-2


def _compilations() -> Callable[[], int]:
    from model.kernels import compilations

    compilations.watch()
    return compilations.count


def _triton_attention(share: Share) -> TritonAttention | StripedTritonAttention:
    heads, stripes = share.model.n_head // share.group.size, share.group.stripe.count
    if stripes > 1:
        from model.kernels.triton_stripes import StripedTritonAttention

        return StripedTritonAttention(heads * stripes, share.device, share.group)
    from model.kernels.triton_attention import TritonAttention

    return TritonAttention(heads, share.device)


def _operations(share: Share, config: EngineConfig) -> Operations:
    from model.kernels.triton_operations import TritonOperations, gelu_product_error

    most = tolerance(share.dtype)
    in_product = share.device.type == "cuda" and gelu_product_error(share.dtype, share.device) <= most
    return TritonOperations(in_product, fused_all_reduce(config, share, most))


def _form(share: Share, quantization: Quantization) -> Form:
    if quantization == "none":
        return Linear
    from model.kernels.quantization import Quantizer

    return Quantizer(quantization, share.device, share.dtype, scratch_values(share.model, share.group.size))
