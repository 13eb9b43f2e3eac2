"""Prompts that wait for their first token, by class and tenant, and how many tokens come before a new one's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Whose(Protocol):
    @property
    def tenant(self) -> str: ...
    @property
    def weight(self) -> float: ...
    @property
    def service_class(self) -> int: ...


class Standing(NamedTuple):
    """Where a prompt stands with the engine's scheduler: `model.scheduling.fairness`."""

    tenant: str = ""
    weight: float = 1.0
    service_class: int = 1

    @classmethod
    def of(cls, request: Whose) -> Standing:
        return cls(request.tenant, request.weight, request.service_class)


ANYBODY = Standing()
"""Where there are no teams."""


@dataclass
class _Line:
    weight: float
    tokens: int = 0
    prompts: int = 0


class Backlog:
    """tokens, prompts: all that wait."""

    def __init__(self) -> None:
        self.tokens = self.prompts = 0
        self._lines: dict[tuple[int, str], _Line] = {}

    def add(self, standing: Standing, tokens: int) -> None:
        key = standing.service_class, standing.tenant
        line = self._lines.setdefault(key, _Line(standing.weight))
        line.weight = standing.weight
        line.tokens += tokens
        line.prompts += 1
        self.tokens += tokens
        self.prompts += 1

    def remove(self, standing: Standing, tokens: int) -> None:
        """What was added."""
        key = standing.service_class, standing.tenant
        line = self._lines[key]
        line.tokens -= tokens
        line.prompts -= 1
        self.tokens -= tokens
        self.prompts -= 1
        if not line.prompts:
            del self._lines[key]

    def before(self, standing: Standing, tokens: int) -> float:
        """Tokens that are computed before a new prompt of so many: those of better classes, and of its tenant's own.

        Of other tenants of its class, what they get meanwhile by their weight, if they have so much.
        """
        own = self._lines.get((standing.service_class, standing.tenant))
        mine = own.tokens if own is not None else 0
        turn = (mine + tokens) / standing.weight
        total = float(mine)
        for (service_class, _), line in self._lines.items():
            if service_class < standing.service_class:
                total += line.tokens
            elif service_class == standing.service_class and line is not own:
                total += min(line.tokens, turn * line.weight)
        return total
