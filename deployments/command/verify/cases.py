"""What the engine is asked for: the ways in which a prompt can come to its tokens, each with prompts that take it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from model.config import EngineConfig
from model.limits import SPECULATIVE_TOKENS
from monitoring import metrics
from monitoring.specs import EngineCounterSpec

NEW_TOKENS, NEW_TOKENS_QUICK = 16, 8
_STEADY: dict[str, Any] = {
    "speculative_tokens": 0,
    "enable_prefix_caching": False,
    "async_scheduling": False,
    "target_inter_token_latency_s": 0.0,
}
"""What may change the way of a prompt, switched off: each case switches one thing on."""


@dataclass(frozen=True)
class Prompt:
    """name: as people are told of it."""

    name: str
    ids: tuple[int, ...]


class Proof(NamedTuple):
    """That an engine has come to what a case is about. missing: in words, what it is if not. counter: of the engine; so
    much of it as goes beyond another one, if `beyond` is given."""

    missing: str
    counter: EngineCounterSpec
    beyond: EngineCounterSpec | None = None


@dataclass(frozen=True)
class Case:
    """Prompts, and how they are run.

    engine: changes of the configuration. at_once: all prompts together, else one after the other. whole: the prompts'
    own tokens are looked at, too. rounds: how often all of it is done on one engine. why_not: why nothing is run.
    """

    name: str
    prompts: tuple[Prompt, ...] = ()
    new_tokens: int = NEW_TOKENS
    engine: Mapping[str, Any] = field(default_factory=dict)
    at_once: bool = True
    whole: bool = False
    rounds: int = 1
    proofs: tuple[Proof, ...] = ()
    why_not: str | None = None


@dataclass(frozen=True)
class Material:
    """What prompts are made of. code: ids of a long text. fim, own: whole prompts; own are those of the user."""

    code: tuple[int, ...]
    fim: tuple[Prompt, ...] = ()
    own: tuple[Prompt, ...] = ()
    quick: bool = False

    def cut(self, length: int, at: int) -> tuple[int, ...]:
        """So many tokens from there on; the text begins anew behind its end."""
        code = self.code
        return tuple(code[(at + i) % len(code)] for i in range(length))


@dataclass(frozen=True)
class Facts:
    """Of the loaded engine. window: tokens of prompt and completion. chunk: of a step, at most."""

    window: int
    chunk: int
    block: int
    sequences: int


def build(material: Material, config: EngineConfig, facts: Facts) -> list[Case]:
    """Every case, those that cannot be run with why."""
    new = NEW_TOKENS_QUICK if material.quick else NEW_TOKENS
    alone = _lengths(material, facts, new)
    read = [max(alone, key=lambda prompt: len(prompt.ids))]
    several = _several(material, facts, new)
    fim = _fitting(material.fim, facts, new)
    cases = [
        Case("one by one", tuple(alone), new, _STEADY, at_once=False),
        Case("every position of a prompt", tuple(read), 1, _STEADY, whole=True),
        _fill_in(material, fim, new),
        Case("many at once", several, new, _STEADY),
        _chunked(material, facts, new),
        _cached(material, config, facts, new),
        _drafted(material, config, facts, new),
        _preempted(material, facts),
        Case("as served", (*several, *fim), new),
        *([Case("your prompts", _fitting(material.own, facts, new), new)] if material.own else []),
    ]
    return [case if case.prompts or case.why_not else replace(case, why_not=_NO_ROOM) for case in cases]


_NO_ROOM = "its prompts do not fit the window"


def _named(ids: Sequence[int]) -> Prompt:
    return Prompt(f"{len(ids):,} token{'s' if len(ids) > 1 else ''}", tuple(ids))


def _fitting(prompts: Iterable[Prompt], facts: Facts, new: int) -> tuple[Prompt, ...]:
    return tuple(prompt for prompt in prompts if len(prompt.ids) + new <= facts.window)


def _lengths(material: Material, facts: Facts, new: int) -> list[Prompt]:
    """From one token to the end of the window: at, before and behind the ends of blocks and of steps."""
    block, chunk, window = facts.block, facts.chunk, facts.window
    wanted = {1, 2, block - 1, block, block + 1, min(chunk + 1, window - new)}
    if not material.quick:
        wanted |= {2 * block + 1, chunk - 1, chunk, window // 2, window - new, window - 1}
    lengths = sorted(n for n in wanted if 0 < n < window)
    return [_named(material.cut(n, 131 * i)) for i, n in enumerate(lengths)]


def _several(material: Material, facts: Facts, new: int) -> tuple[Prompt, ...]:
    """Short and longer ones side by side, as many as run in one step."""
    lengths = [3, 40, 7, 100, 1, 64, 17, 250, 31, 5, 130, 48][: facts.sequences]
    lengths = [n for n in lengths if n + new <= facts.window]
    return tuple(_named(material.cut(n, 977 + 59 * i)) for i, n in enumerate(lengths))


def _fill_in(material: Material, fim: tuple[Prompt, ...], new: int) -> Case:
    name = "fill in the middle"
    if not material.fim:
        return Case(name, why_not="the vocabulary has no tokens for it")
    return Case(name, fim, new, _STEADY, at_once=False)


def _chunked(material: Material, facts: Facts, new: int) -> Case:
    """Steps that end within blocks, and in which others decode."""
    tokens = max(16, 2 * facts.block + 1)
    lengths = [3 * tokens + 5, tokens + 1, 4 * tokens, 1]
    prompts = tuple(_named(material.cut(n, 3001 + 83 * i)) for i, n in enumerate(lengths) if n + new <= facts.window)
    changes = {"max_num_batched_tokens": tokens, "max_num_seqs": min(4, facts.sequences)}
    return Case("prompts in parts", prompts, new, {**_STEADY, **changes})


def _cached(material: Material, config: EngineConfig, facts: Facts, new: int) -> Case:
    name = "prefix cache"
    if not config.enable_prefix_caching:
        return Case(name, why_not="it is switched off")
    stem = material.cut(4 * facts.block + 3, 5003)
    tails = [material.cut(n, 6007 + 71 * i) for i, n in enumerate((1, facts.block, 2 * facts.block + 1))]
    prompts = _fitting([_named((*stem, *tail)) for tail in tails], facts, new)
    changes = {"enable_prefix_caching": True}
    proofs = (Proof("nothing was found in the cache", metrics.PREFIX_CACHE_HITS),)
    return Case(name, prompts, new, {**_STEADY, **changes}, at_once=False, rounds=2, proofs=proofs)


def _drafted(material: Material, config: EngineConfig, facts: Facts, new: int) -> Case:
    """Texts that repeat themselves, so that there is something to look up; and for a draft model others, too."""
    name = "speculation"
    drafts = SPECULATIVE_TOKENS if config.speculative_tokens is None else config.speculative_tokens
    if not drafts:
        return Case(name, why_not="it is switched off")
    prompts = _fitting([_named(material.cut(n, 7001 + 97 * n) * 4) for n in (5, 12, 24)], facts, 2 * new)
    changes = {"speculative_tokens": drafts}
    proofs = [
        Proof("no draft was right", metrics.ACCEPTED_DRAFT_TOKENS),
        Proof("no draft was wrong", metrics.DRAFT_TOKENS, beyond=metrics.ACCEPTED_DRAFT_TOKENS),
    ]
    if config.draft_model is not None:
        prompts += _fitting([_named(material.cut(n, 7507 + 89 * n)) for n in (9, 33)], facts, 2 * new)
        proofs += [
            Proof("no draft was prompt lookup's", metrics.DRAFT_TOKENS, beyond=metrics.MODEL_DRAFT_TOKENS),
            Proof("no draft was the draft model's", metrics.MODEL_DRAFT_TOKENS),
        ]
    return Case(name, prompts, 2 * new, {**_STEADY, **changes}, proofs=tuple(proofs))


def _preempted(material: Material, facts: Facts) -> Case:
    """Four grow by two blocks each, in a cache that has room for three of them."""
    name = "preemption"
    block = facts.block
    length, new = 2 * block + block // 2 + 1, 2 * block
    if length + new > facts.window or facts.sequences < 4:
        return Case(name, why_not=_NO_ROOM if facts.sequences >= 4 else "no four sequences run at once")
    blocks = 3 * -(-(length + new) // block)
    prompts = tuple(_named(material.cut(length, 8009 + 61 * i)) for i in range(4))
    proofs = (Proof("nobody was preempted", metrics.PREEMPTIONS),)
    return Case(name, prompts, new, {**_STEADY, "num_kv_blocks": blocks}, proofs=proofs)
