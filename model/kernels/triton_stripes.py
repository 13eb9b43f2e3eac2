"""`triton_attention` over a striped cache: each rank attends for the heads of all that share it, to what it keeps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model.batch import Batch
from model.kernels.attention_kernels import join_stripes
from model.kernels.mixed_graphs import Layout
from model.kernels.triton_attention import FEWEST_KEYS, TritonAttention, TritonPlan
from model.network.stripes import Stripe, StripedPlan, Stripes, empty_parts


@dataclass(frozen=True)
class TritonPartPlan:
    """plan: of all heads that share the cache, with the contexts of whole sequences and slots of this rank's cache."""

    plan: TritonPlan
    stripe: Stripe

    @classmethod
    def of(cls, plan: TritonPlan, stripe: Stripe, longest: int) -> TritonPartPlan:
        """longest: tokens of the longest context, of which this rank has but a part to split."""
        useful = max(1, stripe.kept(longest) // FEWEST_KEYS)
        return cls(dataclasses.replace(plan, splits=min(plan.splits, useful)), stripe)

    @property
    def slots(self) -> torch.Tensor:
        return self.plan.slots

    def attend_part(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        parts = empty_parts(queries)
        self.plan.launch(queries, cache, scale, parts, 0, self.stripe)
        return parts

    def join(self, parts: torch.Tensor, width: int) -> torch.Tensor:
        stripes, tokens, heads, part_width = parts.shape
        out = parts.new_empty(tokens, heads, width)
        rows = tokens * heads
        join_stripes[(rows,)](
            parts,
            parts.view(torch.float32),
            out,
            rows,
            WIDTH=width,
            PART_WIDTH=part_width,
            STRIPES=stripes,
            num_warps=1,
        )
        return out


class StripedTritonAttention:
    """heads: query heads of all ranks that share the cache."""

    def __init__(self, heads: int, device: torch.device, stripes: Stripes) -> None:
        self._whole, self._stripes = TritonAttention(heads, device), stripes

    def plan(self, batch: Batch) -> StripedPlan:
        return self._striped(self._whole.plan(batch), int(batch.context_lens.max()))

    def plan_decodes(
        self, slots: torch.Tensor, contexts: torch.Tensor, tables: torch.Tensor, longest: int
    ) -> StripedPlan:
        """As `TritonAttention.plan_decodes`. Slots are this rank's, contexts those of whole sequences."""
        return self._striped(self._whole.plan_decodes(slots, contexts, tables, longest), longest)

    # as `mixed_graphs.Planner` has it

    def cut(
        self, query_lens: npt.NDArray[np.int64], tokens: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return self._whole.cut(query_lens, tokens)

    def most_tiles(self, tokens: int, sequences: int) -> int:
        return self._whole.most_tiles(tokens, sequences)

    def plan_layout(self, layout: Layout, tokens: int, longest: int) -> StripedPlan:
        return self._striped(self._whole.plan_layout(layout, tokens, longest), longest)

    def _striped(self, plan: TritonPlan, longest: int) -> StripedPlan:
        return StripedPlan(TritonPartPlan.of(plan, self._stripes.stripe, longest), self._stripes)
