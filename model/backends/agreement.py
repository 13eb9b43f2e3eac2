"""What one rank cannot do, none does: ranks that run different kernels would wait for each other, or differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.config import ELSEWHERE
from model.network.parallel import TensorParallel


@dataclass(frozen=True)
class Agreement:
    """Asks all ranks of a group that has joined.

    Questions are collectives: every rank asks the same, in one order, and must not raise in between.
    """

    group: TensorParallel
    device: torch.device

    def everywhere(self, here: bool) -> bool:
        """Whether it holds on every rank."""
        if self.group.size == 1:
            return here
        missing = torch.tensor(int(not here), device=self.device)
        return int(self.group.all_reduce(missing)) == 0

    def obstacle(self, here: str | None) -> str | None:
        """This rank's obstacle; where it has none but another rank has one, that; None where nobody has one."""
        if self.everywhere(here is None):
            return None
        return ELSEWHERE if here is None else here
