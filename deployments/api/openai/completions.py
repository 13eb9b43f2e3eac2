"""OpenAI's legacy completions, with fill-in-the-middle behind `suffix`. `completions_path` gives them their route.

Source: https://platform.openai.com/docs/api-reference/completions. Fields OpenAI does not have are vLLM's where
vLLM has them. Decisions: a `suffix` asks for infilling, an empty one too; a prompt that does not fit beside
`max_tokens` is refused unless `truncate_prompt_tokens` asks for a cut; `max_tokens` 0 runs the prompt and generates
nothing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from pydantic import Field, model_validator
from starlette.responses import Response

from deployments.api.common.code_fields import ANYBODY, Caller, CodeFields
from deployments.api.common.context import ApiContext
from deployments.api.common.dialect import Dialect
from deployments.api.common.examples import examples
from deployments.api.common.given_up import check_not_given_up
from deployments.api.common.off_loop import is_long, off_loop
from deployments.api.common.rendering import PromptField, Rendering, render_prompts
from deployments.api.common.sampling import DialectModel
from deployments.api.common.streaming import DONE, EVENT_STREAM_CONTENT, EventStream, sse
from deployments.api.openai.logprobs import legacy_logprobs, prompt_offsets
from deployments.api.openai.schemas import (
    ERROR_RESPONSES,
    ModelName,
    UsageCounter,
    attribution,
    ending,
    finish_reason,
)
from deployments.api.parameters.bounds import INT32_MAX
from deployments.api.parameters.length import MAX_TOKENS
from deployments.api.parameters.logprobs import LOGPROBS
from deployments.protocol import Delta, GenerationRequest
from model.text.context import ContextFile, RepositoryContext
from model.text.prompts import Plain, PromptForm, Raw

DIALECT = Dialect("openai", "OpenAI")


class StreamOptions(DialectModel):
    include_usage: bool = Field(default=False, description="Send a last chunk with `usage` and no choices.")


class RepositoryFile(DialectModel):
    path: str = Field(max_length=4096, description="Path of the file in the repository.")
    content: str = Field(description="Text of the file.")


class Repository(DialectModel):
    """What the model should know of the repository around the prompt; used as far as there is room."""

    name: str | None = Field(default=None, max_length=1024, description="Name of the repository.")
    path: str | None = Field(default=None, max_length=4096, description="Path of the file being written.")
    files: list[RepositoryFile] = Field(
        default_factory=list, max_length=256, description="Other files, the most relevant first."
    )

    def to_context(self) -> RepositoryContext:
        files = tuple(ContextFile(file.path, file.content) for file in self.files)
        return RepositoryContext(self.name, self.path, files)


class CompletionRequest(CodeFields):
    """Unknown fields are ignored; null stands for a field's default."""

    model_config = examples(
        {
            "Continue a prompt": {
                "prompt": "import logging\n\nlogger = logging.",
                "stop": "\n",
                "max_tokens": 16,
                "temperature": 0,
            },
            "Fill the gap at a cursor": {
                "prompt": "def mean(values):\n    return sum(values) / len(",
                "suffix": "\n\nprint(mean([1, 2, 3]))\n",
                "completion_mode": "auto",
                "max_tokens": 16,
                "temperature": 0,
            },
            "Know another file": {
                "prompt": "import settings\n\nfor attempt in range(settings.MAX_",
                "suffix": "):\n    print(attempt)\n",
                "repository": {
                    "path": "app.py",
                    "files": [{"path": "settings.py", "content": "MAX_RETRIES = 3\n"}],
                },
                "completion_mode": "auto",
                "max_tokens": 16,
                "temperature": 0,
            },
            "Stream": {
                "prompt": "import logging\n\nlogger = logging.",
                "stop": "\n",
                "max_tokens": 16,
                "temperature": 0,
                "stream": True,
            },
        }
    )

    model: ModelName = Field(default=None, description="Id of the model; the served one if left out.")
    prompt: PromptField = Field(
        description="Text, several texts, token ids, or several lists of ids. Special tokens written in a text "
        "count as such unless `suffix`, `fim_mode` or `repository` is given."
    )
    suffix: str | None = Field(
        default=None,
        description="Text after the cursor: the completion fills the gap between `prompt` and `suffix`. Plain "
        "text always. Empty: the cursor is at the end of the file. Leave it out where `prompt` is a template.",
    )
    fim_mode: Literal["auto", "psm", "spm"] = Field(
        default="auto",
        description="Order of the fill-in-the-middle prompt; `psm` or `spm` also force one without a suffix.",
    )
    repository: Repository | None = Field(default=None, description="Repository context.")
    truncate_prompt_tokens: int | None = Field(
        default=None,
        ge=-1,
        le=INT32_MAX,
        description="Cut longer prompts to this many tokens, or with -1 to what fits beside max_tokens. A plain "
        "prompt loses its start; around a cursor, the text nearest to it is kept.",
    )
    max_tokens: int = MAX_TOKENS.field()
    n: int = Field(default=1, ge=1, le=INT32_MAX, description="Completions for each prompt.")
    best_of: int | None = Field(
        default=None,
        ge=1,
        le=INT32_MAX,
        description="Sample this many and keep the `n` with the highest mean log-probability.",
    )
    logprobs: int | None = LOGPROBS.field()
    echo: bool = Field(default=False, description="Put the prompt before the completion.")
    stream: bool = Field(default=False, description="Answer with server-sent events as tokens come.")
    stream_options: StreamOptions | None = Field(default=None, description="Only with `stream`.")
    priority: int = Field(
        default=0,
        ge=-INT32_MAX,
        le=INT32_MAX,
        description="Of your team's requests, those with a lower number run first.",
    )
    user: str | None = Field(default=None, max_length=1024, description="Your name for your end user.")

    @model_validator(mode="after")
    def _fields_agree(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError(f"best_of ({self.best_of}) must be at least n ({self.n})")
        if self.stream and self.best_of is not None and self.best_of > self.n:
            raise ValueError("best_of cannot be more than n in a stream")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed with stream")
        if self.truncate_prompt_tokens == 0:
            raise ValueError("truncate_prompt_tokens must be -1 or at least 1")
        if self.echo and (self.is_fim or self.repository):
            raise ValueError("echo cannot be combined with suffix, fim_mode or repository")
        return self

    @property
    def is_fim(self) -> bool:
        return self.suffix is not None or self.fim_mode != "auto" or self._is_empty_file

    @property
    def _is_empty_file(self) -> bool:
        """Of a repository, which is what an editor asks for that has just made it."""
        return self.repository is not None and all(prompt == "" for prompt in self.prompt)

    def form(self, api: ApiContext) -> PromptForm:
        context = self.repository.to_context() if self.repository else None
        if self.is_fim:
            return api.gap(self.suffix or "", context, self.fim_mode)
        return Raw() if context is None else Plain(context)


async def to_generation_request(
    body: CompletionRequest, api: ApiContext, caller: Caller = ANYBODY
) -> GenerationRequest:
    """Translate; raise InvalidRequestError, ContextLengthError or ModelNotFoundError."""
    model = await api.served_model(body.model)
    best_of = body.best_of or body.n
    api.check_fan_out(len(body.prompt), best_of)
    # Candidates are ranked by the log-probability of what they chose.
    logprobs = 0 if body.logprobs is None and best_of > body.n else body.logprobs
    params = body.to_params(
        max_tokens=body.max_tokens,
        limits=api.limits,
        vocab_size=api.tokenizer.vocab_size,
        logprobs=logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
    )
    form = body.form(api)
    return GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompts=await render_prompts(
            api, model, body.prompt, Rendering(form, body.truncate_prompt_tokens), body.max_tokens
        ),
        params=params,
        n=body.n,
        best_of=best_of,
        stop=body.stop,
        include_stop=body.include_stop_str_in_output,
        priority=body.priority,
        user=body.user,
        **body.options(
            api.tokenizer,
            body.prompt,
            form,
            caller,
            user=body.user,
            path=body.repository.path if body.repository else None,
        ),
    )


@dataclass
class CompletionWriter:
    """Turns the deltas of one request into OpenAI's objects."""

    api: ApiContext
    body: CompletionRequest
    request: GenerationRequest
    model: str

    def __post_init__(self) -> None:
        self.usage = UsageCounter(self.request, self.body.max_tokens)
        self.head = {
            "id": f"cmpl-{self.request.request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.model,
        }
        self.echoed: dict[int, str] = {}

    def to_json(self, deltas: list[Delta]) -> bytes:
        return msgspec.json.encode(self.to_response(deltas))

    def to_response(self, deltas: list[Delta]) -> dict[str, Any]:
        """One `Completion` of whole completions: the `n` best of each prompt."""
        self.usage.add(deltas)
        choices = [self.choice(delta, number, first=True) for number, delta in enumerate(self.best(deltas))]
        return {**self.head, "choices": choices, "usage": self.usage.usage()}

    def best(self, deltas: list[Delta]) -> Iterator[Delta]:
        by_prompt: dict[int, list[Delta]] = {}
        for delta in sorted(deltas, key=lambda delta: delta.index):
            by_prompt.setdefault(delta.index // self.request.best_of, []).append(delta)
        for candidates in by_prompt.values():
            if len(candidates) > self.request.n:
                candidates.sort(key=_mean_logprob, reverse=True)
            yield from candidates[: self.request.n]

    async def to_events(self) -> AsyncGenerator[bytes, None]:
        """The chunks of a stream; news that arrived together is written together."""
        include_usage = self.body.stream_options is not None and self.body.stream_options.include_usage
        extra: dict[str, Any] = {"usage": None} if include_usage else {}
        started: set[int] = set()
        async with aclosing(self.api.backend.stream(self.request)) as updates:
            async for deltas in updates:
                self.usage.add(deltas)
                events = b""
                for delta in deltas:
                    long = is_long([delta], self.body.logprobs)
                    events += await off_loop(long, self._event, delta, delta.index not in started, extra)
                    started.add(delta.index)
                if events:
                    yield events
        if include_usage:
            yield sse({**self.head, "choices": [], "usage": self.usage.usage()})
        yield DONE

    def _event(self, delta: Delta, first: bool, extra: dict[str, Any]) -> bytes:
        choice = self.choice(delta, delta.index, first=first)
        if not (choice["text"] or choice["logprobs"] or choice["finish_reason"]):
            return b""
        return sse({**self.head, "choices": [choice], **extra})

    def choice(self, delta: Delta, index: int, *, first: bool) -> dict[str, Any]:
        """One entry of `choices`; `first`: the completion's first news, which the echo goes before."""
        check_not_given_up(delta)
        prompt = delta.index // self.request.best_of
        wanted = bool(self.body.max_tokens)
        echo = self.echo(prompt) if first else ""
        # max_tokens 0 still generates one token, which is nobody's business.
        reason = finish_reason(delta) if wanted or delta.finish_reason is None else "length"
        return {
            "index": index,
            "text": echo + delta.text if wanted else echo,
            "logprobs": self.logprobs(delta, prompt, first, wanted),
            "finish_reason": reason,
            "stop_reason": delta.stop_reason if wanted else None,
            **ending(delta if wanted else None),
            **(attribution(delta, shift=len(self.echo(prompt))) if wanted else {}),
        }

    def echo(self, prompt: int) -> str:
        if self.body.echo and prompt not in self.echoed:
            ids = self.request.prompts[prompt]
            self.echoed[prompt] = self.api.tokenizer.decode(ids, skip_special=False)
        return self.echoed.get(prompt, "")

    def logprobs(self, delta: Delta, prompt: int, first: bool, wanted: bool) -> dict[str, Any] | None:
        if self.body.logprobs is None:
            return None
        tokenizer, ids, entries, offsets = self.api.tokenizer, [], [], []
        if first and self.body.echo:
            ids = list(self.request.prompts[prompt])
            entries = list(delta.prompt_logprobs or [])
            offsets = prompt_offsets(tokenizer, ids)
        if wanted:
            base = len(self.echo(prompt))
            ids += delta.token_ids
            entries += delta.logprobs or []
            offsets += [base + offset for offset in delta.text_offsets or []]
        return legacy_logprobs(tokenizer, ids, entries, offsets, self.body.logprobs) if ids else None


def _mean_logprob(delta: Delta) -> float:
    entries = delta.logprobs or []
    return sum(entry.logprob for entry in entries) / len(entries) if entries else float("-inf")


async def answer(body: CompletionRequest, api: ApiContext, caller: Caller = ANYBODY) -> Response:
    """The completions, whole or as a stream."""
    request = await to_generation_request(body, api, caller)
    writer = CompletionWriter(api, body, request, (await api.model()).id)
    if body.stream:
        return await EventStream.open(writer.to_events())
    deltas = await api.backend.generate(request)
    whole = await off_loop(is_long(deltas, body.logprobs), writer.to_json, deltas)
    return Response(whole, media_type="application/json")


RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The completions; with `stream`, server-sent events of the same object.",
        "content": EVENT_STREAM_CONTENT,
    },
    **ERROR_RESPONSES,
}
