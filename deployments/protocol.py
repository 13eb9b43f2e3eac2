"""The one internal completion request, what comes back, and who answers it.

Every HTTP dialect is translated to a `GenerationRequest`; a `Backend` runs it. The ingress knows nothing else
about what stands behind it: a Serve handle in production, a fake in the unit tests. The structs pickle, since
they cross a Serve handle.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from typing import Literal, Protocol

import msgspec

from deployments.attributed import Attribution
from deployments.health import HealthReport
from model.request import FinishReason, Request, SamplingParams, TokenLogprobs
from model.statistics import ForwardPath
from monitoring.labels import DEFAULT_TEAM, OTHER_DIALECT

WHOLE_NEWS_S = 0.1
"""`news_s` of a stream that becomes a whole answer: were each token told on its own, an ingress would take half as much
time again."""

PREFIX_CHARACTERS = 16_384
SUFFIX_CHARACTERS = 8_192
"""Of the text before and after the cursor, what the stop rules get."""

TYPED_CHARACTERS = 65_536
"""Of the text before the cursor, what sessions get: what has been typed, and something to know the place by."""

CompletionMode = Literal["auto", "line", "block", "raw"]
"""Where a completion of code ends; `raw` leaves that to the model."""

Setting = bool | int | float | str
"""What a request says of one rule."""


class StopRules(msgspec.Struct, frozen=True, kw_only=True):
    """Rules that end a completion of code early; `deployments.stop_rules` has them, and its `ask` makes this.

    language: an editor's identifier. prefixes, suffixes: of each prompt, the text just before and after the cursor.
    settings: of the rules that are on, by name.
    needs_logprobs: a rule reads the tokens' log-probabilities.
    """

    mode: CompletionMode = "raw"
    language: str = "other"
    prefixes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    settings: dict[str, Setting] = {}
    needs_logprobs: bool = False


class EditorSession(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a request the successor of another one.

    key: of one session of one caller in one file. prefix: the end of the text before the cursor, which has
    `prefix_length` characters. surroundings: stands for everything else in the prompt.
    """

    key: str
    prefix: str
    prefix_length: int
    surroundings: str


class TakenOver(msgspec.Struct, frozen=True, kw_only=True):
    """What an earlier request of the session had generated, with which a completion began.

    prompt_ids: of the earlier request. token_ids: generated behind them, and with `logprobs` their log-probabilities.
    typed: characters of their text that are in the newer prompt already. told: how many of them it was told as new.
    """

    prompt_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    typed: int
    told: int


class Earlier(msgspec.Struct, frozen=True, kw_only=True):
    """What one completion had come to when its engine died; its client has the text of all of it.

    token_ids: that engines have generated for it. logprobs: theirs, where stop rules read them. finished: it is whole.
    taken_over: what came before them and was not generated for it.
    """

    token_ids: list[int] = []
    logprobs: list[float] = []
    finished: bool = False
    taken_over: TakenOver | None = None


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One client's request: `len(prompts) * best_of` sequences that share their parameters.

    prompts: token ids, already rendered (FIM, context, truncation) and known to fit the window.
    params: of every sequence; `sequences()` spreads the seed.
    n: completions a prompt that the client wants.
    best_of: completions a prompt that are sampled, at least n; the API keeps the n best.
    stop: stop strings, looked for in the generated text only; include_stop: leave the match in the text.
    skip_special: leave special tokens out of the text. special_tokens: all of them may be drawn, beside end-of-text.
    priority: lower runs first, among its tenant's requests of its class.
    user: the client's own name for its end user or session; never a metric label.
    rules: what else ends a completion; None leaves the text as the model says it.
    session: a newer request of it ends this one; None: never.
    max_time_ms: answer with what there is so long after the request's arrival at the replica.
    dos_prompts: numbers of the prompts whose documents have lines that end in CR LF; `prompts` have them without CR.
    team, dialect: on whose account it runs and by which API it came; values of metric labels (`monitoring.labels`).
    client_request_id: the HTTP request's id, which several of these may share.
    trace: W3C trace context of the span that this is part of; empty: it is not traced.
    drawn_seed: what completions draw with where `params.seed` is None; None: the engine chooses.
    asked_at: when the first engine was asked, in Unix seconds. attempt: so many engines were asked before this one.
    earlier: by `Delta.index`, what the completions have come to on those; empty: nothing.
    reader: the ingress process to which the answer goes.
    news_s: news of it may wait so long for more, since nobody sees any before the end; 0: they come as they are.
    tenant, weight, service_class, cache_root: see `model.request.Request`.
    deadline_s: the first token is wanted so soon; where that cannot be, the request is refused. None: it waits.
    """

    request_id: str
    prompts: list[list[int]]
    params: SamplingParams
    n: int = 1
    best_of: int = 1
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special: bool = True
    special_tokens: bool = False
    priority: int = 0
    user: str | None = None
    rules: StopRules | None = None
    session: EditorSession | None = None
    max_time_ms: int | None = None
    dos_prompts: tuple[int, ...] = ()
    team: str = DEFAULT_TEAM
    dialect: str = OTHER_DIALECT
    client_request_id: str | None = None
    trace: dict[str, str] = {}
    drawn_seed: int | None = None
    asked_at: float = 0.0
    attempt: int = 0
    earlier: tuple[Earlier, ...] = ()
    reader: str = ""
    news_s: float = 0.0
    tenant: str = ""
    weight: float = 1.0
    service_class: int = 1
    cache_root: str = ""
    deadline_s: float | None = None

    @property
    def first_id(self) -> str:
        """Its `request_id` on the first engine."""
        return self.request_id.removesuffix(f"~{self.attempt}")

    def is_dos(self, index: int) -> bool:
        """Whether completion `index` (see `Delta.index`) is of one of `dos_prompts`."""
        return index // self.best_of in self.dos_prompts

    @property
    def unfinished(self) -> int:
        """Completions that an engine has still to generate."""
        return len(self.prompts) * self.best_of - sum(one.finished for one in self.earlier)

    def sequences(self, barred_ids: tuple[int, ...] = ()) -> Iterator[Request]:
        """The engine requests this fans out to, in `Delta.index` order. barred_ids: see `model.request.Request`.

        Completion i of a seeded prompt draws with `seed + i`: completions differ, the request repeats. Where the seed
        is not the client's, equal prompts differ as well.
        """
        shared = self.params
        if self.rules is not None:
            logprobs = 0 if shared.logprobs is None and self.rules.needs_logprobs else shared.logprobs
            shared = msgspec.structs.replace(shared, logprobs=logprobs)
        for prompt_index, prompt_ids in enumerate(self.prompts):
            for i in range(self.best_of):
                params, index = shared, prompt_index * self.best_of + i
                if params.seed is not None and i:
                    params = msgspec.structs.replace(params, seed=params.seed + i)
                elif params.seed is None and self.drawn_seed is not None:
                    params = msgspec.structs.replace(params, seed=self.drawn_seed + index)
                sequence = Request(
                    f"{self.request_id}-{index}",
                    prompt_ids,
                    params,
                    self.priority,
                    tenant=self.tenant,
                    weight=self.weight,
                    service_class=self.service_class,
                    cache_root=self.cache_root,
                    barred_ids=barred_ids,
                )
                yield _continued(sequence, self.earlier[index]) if self.earlier else sequence


def _continued(sequence: Request, earlier: Earlier) -> Request:
    """The engine request that goes on behind what earlier engines have generated."""
    prompt_ids, params = sequence.prompt_ids, sequence.params
    if (known := earlier.taken_over) is not None:
        prompt_ids = [*known.prompt_ids, *known.token_ids]
        params = msgspec.structs.replace(params, max_tokens=params.max_tokens - known.told)
    return msgspec.structs.replace(sequence, prompt_ids=prompt_ids, params=params, output_ids=earlier.token_ids)


class Delta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """News of one completion.

    index: prompt index * best_of + number of the completion.
    text: text that is now certain; stop strings and end-of-text are already cut off.
    token_ids: every new token, also those whose text is held back or cut off.
    logprobs: one entry for each of `token_ids`, where `params.logprobs` asks for them.
    rule_logprobs: log-probabilities of `token_ids`, where only stop rules ask for them.
    text_offsets: where the text of each of `token_ids` begins, in characters of the completion.
    prompt_logprobs: on the first delta of a completion, where `params.prompt_logprobs` asks for them.
    finish_reason: set on the last delta of a completion, and only there.
    stop_reason: the stop string or stop token id that ended it; None for end-of-text.
    ended_by: on the last delta, the stop rule that ended the completion or cut its end, if one did: its name.
    cached_tokens: prompt tokens that came from the prefix cache (the newest known value, not a sum).
    queue_seconds: how long the sequence waited before its first step.
    first_token_seconds: from the request's arrival at the replica to the first token, on the delta that brings it.
    ended_seconds: from the same moment to the completion's end, on the last delta.
    engine: the replica's name, on the same delta.
    taken_over: the completion begins with this; its `told` tokens are the first of `token_ids`.
    replayed_tokens: of `token_ids`, those that an earlier request of the editor session had generated.
    attributions: on the last delta of a completion, what of its text is known code.
    blocked: on the last delta, it was ended since it would have repeated too much of known code.
    """

    index: int
    text: str = ""
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] | None = None
    rule_logprobs: list[float] | None = None
    text_offsets: list[int] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    ended_by: str | None = None
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    first_token_seconds: float = 0.0
    ended_seconds: float = 0.0
    engine: str = ""
    taken_over: TakenOver | None = None
    replayed_tokens: int = 0
    attributions: list[Attribution] = []
    blocked: bool = False


async def gathered(batches: AsyncGenerator[list[Delta], None]) -> list[Delta]:
    """A stream as one whole delta a completion, by index. It is closed on every path. Raises what it raises."""
    whole: dict[int, Delta] = {}
    async with aclosing(batches):
        async for deltas in batches:
            gather(whole, deltas)
    return [whole[index] for index in sorted(whole)]


def gather(whole: dict[int, Delta], news: Iterable[Delta]) -> None:
    """Add each delta to that of its completion in `whole`, which says everything so far by index.

    Those in `whole` are copies that grow in place, so that many small ones take no more time than a large one.
    """
    for delta in news:
        known = whole.get(delta.index)
        whole[delta.index] = _own(delta) if known is None else _merge(known, delta)


def _own(delta: Delta) -> Delta:
    return msgspec.structs.replace(
        delta,
        token_ids=delta.token_ids.copy(),
        logprobs=delta.logprobs and delta.logprobs.copy(),
        rule_logprobs=delta.rule_logprobs and delta.rule_logprobs.copy(),
        text_offsets=delta.text_offsets and delta.text_offsets.copy(),
    )


def _merge(older: Delta, newer: Delta) -> Delta:
    """Add `newer` to `older`, in place: one delta that says both."""
    # Python adds to a string in place only where nothing else holds it.
    text, older.text = older.text, ""
    text += newer.text
    older.text = text
    older.token_ids.extend(newer.token_ids)
    if newer.logprobs is not None:
        older.logprobs = older.logprobs or []
        older.logprobs.extend(newer.logprobs)
    if newer.rule_logprobs is not None:
        older.rule_logprobs = older.rule_logprobs or []
        older.rule_logprobs.extend(newer.rule_logprobs)
    if newer.text_offsets is not None:
        older.text_offsets = older.text_offsets or []
        older.text_offsets.extend(newer.text_offsets)
    older.prompt_logprobs = older.prompt_logprobs or newer.prompt_logprobs
    older.finish_reason = newer.finish_reason
    older.stop_reason = newer.stop_reason
    older.ended_by = newer.ended_by
    older.attributions = newer.attributions
    older.blocked = newer.blocked
    older.cached_tokens = max(older.cached_tokens, newer.cached_tokens)
    older.queue_seconds = max(older.queue_seconds, newer.queue_seconds)
    older.first_token_seconds = older.first_token_seconds or newer.first_token_seconds
    older.ended_seconds = newer.ended_seconds
    older.engine = older.engine or newer.engine
    older.replayed_tokens += newer.replayed_tokens
    return older


class News(msgspec.Struct, frozen=True, array_like=True):
    """What a replica tells an ingress at once, of all the answers under way to it.

    sent_at: Unix seconds, by the replica's clock. deltas: by request, in any order of requests. errors: pickled; the
    last of those requests.
    """

    sent_at: float
    deltas: list[tuple[str, list[Delta]]] = []
    errors: list[tuple[str, bytes]] = []


class Attach(msgspec.Struct, frozen=True, kw_only=True):
    """An ingress wants to hear of all its answers together.

    engine: the replica's name, by which it is routed there. reader: the ingress's, see `GenerationRequest.reader`.
    """

    engine: str
    reader: str


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What an ingress tells a replica: of these requests nobody waits for more.

    engine, reader: as in `Attach`. lag_s: so far it is behind with what the replica tells it; None: it hears nothing.
    """

    engine: str
    reader: str
    request_ids: list[str] = []
    lag_s: float | None = None


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The model being served.

    id: the name clients use; created: Unix seconds; max_model_len: longest prompt plus completion, in tokens;
    block_size: tokens in one cache block; parameter_bytes: held by each tensor-parallel rank. quantization: of the
    weights. forward: what computes its steps; None where nothing is known of it.
    """

    id: str
    max_model_len: int
    created: int
    block_size: int = 16
    dtype: str = "float32"
    quantization: str = "none"
    tensor_parallel_size: int = 1
    parameter_bytes: list[int] = []
    forward: ForwardPath | None = None


class Backend(Protocol):
    """Runs generation requests.

    Any method raises `deployments.errors.ServeError`, or what `unwrap` turns into one.
    """

    def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        """Yield news until every completion has a finish_reason. Closing or cancelling it early aborts."""
        ...

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        """A whole `Delta` for each of the `len(prompts) * best_of` completions; cancelling aborts."""
        ...

    async def health(self) -> HealthReport: ...

    async def info(self) -> ModelInfo: ...
