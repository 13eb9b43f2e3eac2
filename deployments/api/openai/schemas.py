"""Objects of OpenAI's API that several dialects answer with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from deployments.api.common.ended_by import EndedBy
from deployments.protocol import Delta, GenerationRequest

_NOBODYS_MODEL = re.compile(r"|tgi|dummy|https?://\S*")


def _named(model: str | None) -> str | None:
    return None if model is not None and _NOBODYS_MODEL.fullmatch(model) else model


ModelName = Annotated[str | None, AfterValidator(_named)]
"""Of a request. Some clients fill it in themselves where nobody named a model: text-generation says `tgi`,
huggingface_hub `dummy`, @huggingface/inference the address of the server, llama.vim nothing. None is what they mean."""


class ErrorDetail(BaseModel):
    message: str = Field(description="What is wrong, for people.")
    type: str = Field(description="The kind of error, such as `invalid_request_error` or `server_error`.")
    param: str | None = Field(description="The field of the request that is wrong.")
    code: str | None = Field(description="What is wrong, for programs, such as `context_length_exceeded`.")


class ErrorBody(BaseModel):
    """Every failure answers with this, whatever its status."""

    error: ErrorDetail = Field(description="What went wrong.")


class PromptTokensDetails(BaseModel):
    cached_tokens: int = Field(description="Prompt tokens that came from the prefix cache.")


class Usage(BaseModel):
    prompt_tokens: int = Field(description="Tokens of all prompts, each counted once.")
    completion_tokens: int = Field(description="Tokens generated, those of dropped `best_of` candidates too.")
    total_tokens: int = Field(description="Both together.")
    prompt_tokens_details: PromptTokensDetails = Field(description="More about the prompt tokens.")


class Logprobs(BaseModel):
    tokens: list[str] = Field(
        description="The tokens' texts. A token that is no whole UTF-8 text is written `bytes:\\xe2`."
    )
    token_logprobs: list[float | None] = Field(
        description="Natural logarithms of their probabilities. Null for the first token of an echoed prompt."
    )
    top_logprobs: list[dict[str, float] | None] = Field(
        description="The most likely tokens at each place, and the chosen one."
    )
    text_offset: list[int] = Field(description="Where each token begins in `text`, in characters.")


class AttributionSource(BaseModel):
    file: str = Field(description="The file, by its name in the server's index.")
    line: int = Field(description="The line where the repeated part begins, from 1.")
    licence: str | None = Field(description="Under which licence it is: an SPDX identifier or words; null: unknown.")


class AttributedPart(BaseModel):
    start: int = Field(description="Where it begins, in characters of the completion's whole text.")
    end: int = Field(description="Where it ends.")
    sources: list[AttributionSource] = Field(description="Where the same code stands; of many places, the first five.")


Attributed = Annotated[
    list[AttributedPart] | None,
    Field(
        description="Parts of the completion that repeat code of the server's attribution index; in a stream, on the "
        "completion's last chunk. Absent if there are none, or no index."
    ),
]


class CompletionChoice(BaseModel):
    index: int = Field(description="Prompt number times `n`, plus the number of the completion.")
    text: str = Field(description="The completion; in a stream, the part that is new.")
    logprobs: Logprobs | None = Field(default=None, description="Where `logprobs` asks for them.")
    finish_reason: Literal["stop", "length", "content_filter"] | None = Field(
        description="`stop`: end-of-text or a stop string; `length`: max_tokens; `content_filter`: it would have "
        "repeated too much of somebody's code. Null while streaming."
    )
    stop_reason: str | int | None = Field(
        default=None, description="The stop string or stop token id that ended it, if one did."
    )
    ended_by: EndedBy = None
    attribution: Attributed = None


WARNINGS = "Only where the body had fields that there are not: which. Of a stream, in the header `x-warnings`."


class Completion(BaseModel):
    id: str = Field(description="Unique to the request; the same in every chunk of a stream.")
    object: Literal["text_completion"] = Field(description="What this is.")
    created: int = Field(description="Unix seconds.")
    model: str = Field(description="Id of the model that answered.")
    choices: list[CompletionChoice] = Field(description="Empty in the usage chunk of a stream.")
    usage: Usage | None = Field(
        default=None, description="In a stream, in the last chunk and only if `stream_options` asks for it."
    )
    warnings: list[str] | None = Field(default=None, description=WARNINGS)


def ending(delta: Delta | None) -> dict[str, Any]:
    """The field that names the rule which ended a completion; nothing where none did."""
    return {} if delta is None or delta.ended_by is None else {"ended_by": delta.ended_by}


def finish_reason(delta: Delta) -> str | None:
    """As clients of OpenAI's and Azure's filters know it: what is blocked has a reason of its own."""
    return "content_filter" if delta.blocked else delta.finish_reason


def attribution(delta: Delta, shift: int = 0) -> dict[str, Any]:
    """The field that says whose code a completion repeats; nothing where it is nobody's.

    shift: from the places in the delta's completion to those in what the client gets of it.
    """
    found = [
        {"start": max(0, one.start + shift), "end": one.end + shift, "sources": one.sources}
        for one in delta.attributions
    ]
    return {"attribution": found} if found else {}


class UsageCounter:
    """Adds up one request's usage from the deltas of all its completions."""

    def __init__(self, request: GenerationRequest, max_tokens: int) -> None:
        self._request = request
        self._max_tokens = max_tokens
        self._generated = 0
        self._cached: dict[int, int] = {}

    def add(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            self._generated += len(delta.token_ids)
            self._cached[delta.index] = max(delta.cached_tokens, self._cached.get(delta.index, 0))

    def _cached_tokens(self) -> int:
        """Completions of one prompt share its blocks: their smallest number is what was there before them."""
        by_prompt: dict[int, int] = {}
        for index, cached in self._cached.items():
            prompt = index // self._request.best_of
            by_prompt[prompt] = min(cached, by_prompt.get(prompt, cached))
        return sum(by_prompt.values())

    def usage(self) -> dict[str, Any]:
        prompt_tokens = sum(len(prompt) for prompt in self._request.prompts)
        # The engine generates one token even where none is wanted.
        generated = self._generated if self._max_tokens else 0
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": prompt_tokens + generated,
            "prompt_tokens_details": {"cached_tokens": self._cached_tokens()},
        }


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be served as it is."},
    413: {"model": ErrorBody, "description": "The body is larger than the server's limit."},
    429: {"model": ErrorBody, "description": "The queue is full; `Retry-After` says when to try again."},
    500: {"model": ErrorBody, "description": "The server failed."},
    503: {"model": ErrorBody, "description": "The engine is starting, draining or dead."},
}
