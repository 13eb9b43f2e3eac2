"""What the engine has written, and what transformers says of it: arrays, which processes give each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from deployments.command.verify.cases import Case, Facts, Prompt
from model.config import Quantization

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Written:
    """One prompt with what followed it, greedily.

    output: its tokens. first: tokens (prompt and output together) from this one on were looked at, n in all: own [n]
    float32 are their log-probabilities; ids, logprobs [n, K]: the likeliest tokens there, best first. cached: tokens
    that came out of the prefix cache. failure: why the engine gave up.
    """

    prompt: Prompt
    output: tuple[int, ...]
    first: int
    own: Floats
    ids: Ints
    logprobs: Floats
    cached: int = 0
    failure: str | None = None

    @property
    def tokens(self) -> tuple[int, ...]:
        return (*self.prompt.ids, *self.output)


@dataclass(frozen=True)
class Drafts:
    """Drafted tokens that were checked: of prompt lookup and of the draft model, and how many of each were right."""

    lookup: int = 0
    lookup_right: int = 0
    model: int = 0
    model_right: int = 0

    def __add__(self, other: Drafts) -> Drafts:
        return Drafts(
            self.lookup + other.lookup,
            self.lookup_right + other.lookup_right,
            self.model + other.model,
            self.model_right + other.model_right,
        )


@dataclass(frozen=True)
class CaseRun:
    """missing: what the engine did not come to, in words. broken: how it lost track of its cache."""

    case: Case
    written: tuple[Written, ...] = ()
    missing: tuple[str, ...] = ()
    broken: str | None = None
    drafts: Drafts = Drafts()


@dataclass(frozen=True)
class EngineAnswer:
    """reports: of the ranks, rank 0 first. gpus: names of their devices."""

    runs: list[CaseRun]
    facts: Facts
    reports: list[dict[str, Any]]
    gpus: list[str] = field(default_factory=list)

    @property
    def dtype(self) -> str:
        return str(self.reports[0]["dtype"])

    @property
    def path(self) -> dict[str, Any]:
        """What computes its steps, where, as what type, on how many ranks."""
        first = self.reports[0]
        return {"device": first["device"], "dtype": first["dtype"], **first["forward"], "ranks": len(self.reports)}


class Text(NamedTuple):
    """Tokens for transformers to read. Those from `first` on are looked at; first is 1 at least."""

    tokens: tuple[int, ...]
    first: int


class Rounding(NamedTuple):
    """8 bits for the linear layers. inputs: what weights are multiplied with is rounded as well."""

    quantization: Quantization
    inputs: bool


Role = Literal["exact", "served", "unquantized"]
"""exact: what all others are compared with. served: transformers in the type that is served. unquantized: exact, too,
but with the weights as they are in the checkpoint."""


class Pass(NamedTuple):
    """One reading of all texts.

    dtype: of the network, by its name in PyTorch. rounding: what linear layers do with weights that were read as
    `weights`.
    """

    role: Role
    dtype: str
    rounding: Rounding | None = None
    weights: str = "float32"


class Place(NamedTuple):
    """Where the model may lie: on GPUs, if `gpus`, in so many bytes of main memory (None: most of what is free), and,
    with what is left, in the empty directory `scratch`."""

    gpus: bool
    main_memory: int | None
    scratch: Path


@dataclass(frozen=True)
class Read:
    """Of n positions of a text: the log-probability of the text's own token [n], of the tokens that the exact reading
    holds for likeliest [n, k], and the likeliest token [n]."""

    own: Floats
    logprobs: Floats
    likeliest: Ints


@dataclass(frozen=True)
class Reading:
    """Of one text, what each pass says. ids [n, k]: the tokens that the exact one holds for likeliest, best first."""

    text: Text
    ids: Ints
    passes: dict[Role, Read]
