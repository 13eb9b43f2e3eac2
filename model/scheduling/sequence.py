"""One request on its way through the engine, and what a step does of it.

A sequence is a list of tokens of which the first `computed` have their keys and values in the cache. A step computes
some more of them; when it reaches the end of the list, the sampler adds one. Prefill, decode and recomputation after
preemption are this one rule.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from model.request import Request, TokenLogprobs
from model.scheduling.account import Account
from model.scheduling.kv_cache import Block, BlockHash, root_of
from model.scheduling.speculation import Speculator


@dataclass(eq=False)
class Sequence:
    """One request on its way through the engine.

    limit: its length at most, prompt included.
    computed: tokens whose keys and values are in the cache. drafted: those that are in the draft model's cache, as far
        as it has been looked. published: leading blocks that can be found by hash.
    draft: tokens that may follow, to be checked along with the next step if there is room.
    tokens: the ids that are known. awaited: one more token, which a running step still draws while the next step is
        prepared, as its row among what that step draws; None where no token is awaited.
    in_check: a running step checks a draft of it. How many tokens it gains is not known before that step is read, so
        it is in no step until then.
    arrived_at, started_at: when it was added and when it first ran, by the monotonic clock, in seconds.
    hashes: of its leading full blocks. cached_tokens: of its prompt, what its first step found in the cache,
        and what was not put there for it.
    root: where its hashes begin. account: of its tenant, once it waits. evicted: how often it lost its blocks to
        another tenant.
    lost: tokens that it had computed when it was preempted.
    passed: how many that came later were admitted before it, since it did not fit.
    gone: it has finished or was aborted.
    """

    request: Request
    seed: int
    arrival: int
    limit: int
    prompt_length: int = field(init=False)
    root: BlockHash = field(init=False)
    account: Account = field(init=False)
    speculator: Speculator | None = None
    arrived_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None
    tokens: list[int] = field(default_factory=list)
    awaited: int | None = None
    in_check: bool = False
    draft: list[int] = field(default_factory=list)
    computed: int = 0
    drafted: int = 0
    published: int = 0
    blocks: list[Block] = field(default_factory=list)
    hashes: list[BlockHash] = field(default_factory=list)
    cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    evicted: int = 0
    lost: int = 0
    passed: int = 0
    gone: bool = False

    def __post_init__(self) -> None:
        self.tokens = [*self.request.prompt_ids, *self.request.output_ids]
        self.prompt_length = len(self.request.prompt_ids)
        self.root = root_of(self.request.cache_root)

    @property
    def service_class(self) -> int:
        """Of its account: its request's own, or a better one once it has waited for long."""
        return self.account.service_class

    @property
    def rank(self) -> tuple[int, int, int]:
        """Its place among those of its tenant: class, priority, then arrival. Smaller runs first."""
        return self.account.service_class, self.request.priority, self.arrival

    def outranks(self, other: Sequence) -> bool:
        """Whether it may take the other's place. A client's priority counts among the tenant's own requests alone."""
        if self.service_class != other.service_class:
            return self.service_class < other.service_class
        return self.account is other.account and self.request.priority < other.request.priority

    @property
    def output(self) -> list[int]:
        return self.tokens[self.prompt_length :]

    @property
    def length(self) -> int:
        """Tokens of the sequence, an awaited one included."""
        return len(self.tokens) + (self.awaited is not None)

    @property
    def num_output(self) -> int:
        return len(self.tokens) + (self.awaited is not None) - self.prompt_length

    @property
    def num_new(self) -> int:
        """Those of its output tokens that were drawn here."""
        return self.num_output - len(self.request.output_ids)

    @property
    def pending(self) -> int:
        """Tokens whose keys and values are still to be computed: 1 for a decoding sequence."""
        return len(self.tokens) + (self.awaited is not None) - self.computed

    @property
    def ends(self) -> bool:
        """The token it awaits is its last, whatever it turns out to be."""
        return self.awaited is not None and self.length >= self.limit

    def start_over(self) -> None:
        """It has no blocks any more: all of its tokens are still to be computed."""
        self.blocks, self.draft, self.prompt_logprobs = [], [], []
        self.computed = self.drafted = self.published = 0

    @property
    def cache_use(self) -> tuple[int, int]:
        """Tokens that the cache was asked for, and that it had. A prompt and its pieces ask for each token once."""
        if self.request.is_piece:
            return self.prompt_length - self.cached_tokens, 0
        return self.prompt_length - self.request.ahead, self.cached_tokens

    @property
    def wants_prompt_logprobs(self) -> bool:
        return self.request.params.prompt_logprobs is not None and self.num_output == 0


@dataclass(slots=True)
class Scheduled:
    """`count` more tokens of a sequence, from `sequence.computed` on, and drafted ones behind them.

    by_model: a draft model drafted them.

    Nobody changes it. It is not frozen since every step makes one for each sequence, which takes a frozen one longer.
    """

    sequence: Sequence
    count: int
    draft: tuple[int, ...] = ()
    by_model: bool = False

    @property
    def total(self) -> int:
        return self.count + len(self.draft)

    @property
    def completes(self) -> bool:
        """The step reaches the end of the sequence, so it samples the next token."""
        return self.count == self.sequence.pending
