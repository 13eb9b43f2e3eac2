"""One cache striped over several ranks: each keeps every n-th token of every sequence (decode context parallelism).

The one key/value head of a multi-query model is needed by every query head, so tensor parallelism alone repeats the
cache on every rank. Striped, of `count` ranks number `own` keeps the tokens at positions p with p % count == own.
Blocks hold a multiple of `count` tokens, so a block is striped too: every rank has a part of each, and block tables,
prefix hashes and reference counts are the same everywhere. To a rank a sequence looks like one whose token i stands at
position i * count + own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from model.batch import Batch

Number = TypeVar("Number", int, npt.NDArray[np.int64], torch.Tensor)


@dataclass(frozen=True)
class Stripe:
    """Which tokens a rank keeps; by default all."""

    count: int = 1
    own: int = 0

    def kept(self, tokens: Number) -> Number:
        """How many of a sequence's first `tokens` tokens this rank keeps."""
        return (tokens + (self.count - 1 - self.own)) // self.count

    def slots(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Slots of the whole cache as slots of this rank's; -1 for what other ranks keep."""
        return np.where(slots % self.count == self.own, slots // self.count, -1)

    def of(self, batch: Batch) -> Batch:
        """The batch with this rank's slots. Contexts and positions stay those of whole sequences."""
        return batch if self.count == 1 else dataclasses.replace(batch, slots=self.slots(batch.slots))


class Stripes(Protocol):
    """The ranks that share a cache, as one of them sees them."""

    @property
    def stripe(self) -> Stripe:
        """What this rank keeps."""
        ...

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """This rank's tensor -> [count, ...], everybody's."""
        ...

    def exchange(self, tensor: torch.Tensor) -> torch.Tensor:
        """[count, ...], one for each rank -> [count, ...], what each rank has for this one."""
        ...


class PartPlan(Protocol):
    """A step's attention over the tokens that a rank keeps."""

    @property
    def slots(self) -> torch.Tensor:
        """Of this rank's cache, [T], -1 for what other ranks keep."""
        ...

    def attend_part(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        """queries [count, T, heads, head_dim] of all ranks, contiguous -> their `Parts`, by this rank's tokens."""
        ...

    def join(self, parts: torch.Tensor, width: int) -> torch.Tensor:
        """Of all ranks, for this rank's queries -> [T, heads, width]"""
        ...


@dataclass(frozen=True)
class StripedPlan:
    """An `AttentionPlan` of two more collectives: queries go to the tokens, and what they found there comes back."""

    part: PartPlan
    stripes: Stripes

    @property
    def slots(self) -> torch.Tensor:
        return self.part.slots

    def attend(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        """queries [T, heads, head_dim] of this rank -> [T, heads, head_dim]"""
        found = self.part.attend_part(self.stripes.all_gather(queries), cache, scale)
        return self.part.join(self.stripes.exchange(found), queries.shape[-1])


def empty_parts(queries: torch.Tensor) -> torch.Tensor:
    """Room for what `queries` [count, T, heads, width] find: [count, T, heads, width and a float32], of their type.

    Of each query a sum of values, normalised, and in the last 4 bytes of its row the logarithm of the sum of
    exponentials that it was divided by: minus infinity, and a sum of 0, where the query saw none of the tokens. Both
    are in one tensor, for one message.
    """
    *rows, width = queries.shape
    each = 4 // queries.element_size()
    return queries.new_empty(*rows, -(-width // each) * each + each)


def logsumexps(parts: torch.Tensor) -> torch.Tensor:
    """Of `empty_parts`, float32 [count, T, heads]: a view."""
    return parts.view(torch.float32)[..., -1]


def join_parts(parts: torch.Tensor, width: int) -> torch.Tensor:
    """Parts [count, T, heads, ...] of a softmax -> all of it, [T, heads, width]: each weighs what it was divided by.

    A query sees at least one token: the first, which the first rank keeps.
    """
    weights = torch.softmax(logsumexps(parts), dim=0).unsqueeze(-1)
    return (parts[..., :width].float() * weights).sum(0).to(parts.dtype)
