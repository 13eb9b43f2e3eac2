"""From what a client calls a prompt to token ids that fit the model's window.

FIM templates, repository context and the places where text is cut are the tokenizer's; here is decided what a
request asks for, and what is refused.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from deployments.api.common.bounds import INT32_MAX, INT64_MAX, check_token_ids
from deployments.api.common.context import ApiContext
from deployments.errors import ContextLengthError, InvalidRequestError
from deployments.protocol import ModelInfo
from model.text.fim import FimMode, RepositoryContext
from model.text.tokenizer import Tokenizer
from model.text.truncation import anchor_stride, left_cut

_THREAD_CHARS = 20_000
"""Text longer than this (about 5 ms of tokenizing) is tokenized off the event loop."""

_CHARS_PER_TOKEN = 32
"""Of a text that may be cut, more characters than this for each token of the budget are not even tokenized."""

_UNCUT = sys.maxsize

Prompts = list[str] | list[list[int]]


def _is_id_list(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and abs(item) <= INT64_MAX for item in value)


def _prompts(value: Any) -> Any:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if _is_id_list(value):
            return [value]
        if all(isinstance(item, str) for item in value) or all(_is_id_list(item) for item in value):
            return value
    elif value == []:
        raise ValueError("is empty; it must hold at least one token or character")
    raise ValueError("must be a string, a list of strings, a list of token ids, or a list of such lists")


_IDS_SCHEMA = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": INT32_MAX}, "minItems": 1}

PromptField = Annotated[
    Prompts,
    BeforeValidator(_prompts),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                _IDS_SCHEMA,
                {"type": "array", "items": _IDS_SCHEMA, "minItems": 1},
            ]
        }
    ),
]
"""OpenAI's four forms of a prompt, validated to a list of strings or a list of id lists."""


@dataclass(frozen=True)
class Rendering:
    """How the prompts of one request become ids.

    max_tokens: what the completion may add; the window has to hold both.
    fim_mode: render as fill-in-the-middle around `suffix`; None: continue the prompt.
    truncate: None refuses what does not fit; -1 cuts to what fits; k cuts to at most k tokens.
    context: repository context, as much of it as there is room for.
    """

    max_tokens: int
    suffix: str = ""
    fim_mode: FimMode | None = None
    truncate: int | None = None
    context: RepositoryContext | None = None


async def render_prompts(api: ApiContext, model: ModelInfo, prompts: Prompts, rendering: Rendering) -> list[list[int]]:
    """Token ids of every prompt.

    Raises ContextLengthError for what does not fit, InvalidRequestError for what the model cannot do.
    """
    _check(api, model, prompts, rendering)
    if sum(len(prompt) for prompt in prompts) > _THREAD_CHARS:
        return await asyncio.to_thread(_render_all, api.tokenizer, model, prompts, rendering)
    return _render_all(api.tokenizer, model, prompts, rendering)


def _check(api: ApiContext, model: ModelInfo, prompts: Prompts, rendering: Rendering) -> None:
    if rendering.max_tokens >= model.max_model_len:
        raise ContextLengthError(
            f"This model's maximum context length is {model.max_model_len} tokens; "
            f"max_tokens ({rendering.max_tokens}) leaves no room for a prompt.",
            param="max_tokens",
        )
    for prompt in prompts:
        if not prompt and not (rendering.fim_mode and (rendering.suffix or rendering.context)):
            raise InvalidRequestError(
                "`prompt`: is empty; it must hold at least one token or character.",
                param="prompt",
                code="invalid_value",
            )
        if isinstance(prompt, str):
            size = len(prompt.encode()) + len(rendering.suffix.encode())
            least = size // api.longest_token
            if rendering.truncate is None and least >= model.max_model_len:
                # Said without tokenizing megabytes first.
                raise _too_long(model, f"at least {least}", rendering.max_tokens)
        else:
            if rendering.truncate is None and len(prompt) >= model.max_model_len:
                raise _too_long(model, str(len(prompt)), rendering.max_tokens)
            check_token_ids("prompt", prompt, api.tokenizer.vocab_size)
            if rendering.fim_mode or rendering.context:
                raise InvalidRequestError(
                    "`prompt`: fill-in-the-middle and repository context need the prompt as text, not ids.",
                    param="prompt",
                    code="invalid_value",
                )


def _render_all(tokenizer: Tokenizer, model: ModelInfo, prompts: Prompts, rendering: Rendering) -> list[list[int]]:
    return [_render(tokenizer, model, prompt, rendering) for prompt in prompts]


def _render(tokenizer: Tokenizer, model: ModelInfo, prompt: str | list[int], rendering: Rendering) -> list[int]:
    room = model.max_model_len - max(rendering.max_tokens, 1)
    budget = _UNCUT
    if rendering.truncate is not None:
        budget = room if rendering.truncate < 0 else min(rendering.truncate, room)
    try:
        if isinstance(prompt, list):
            ids = _cut_left(prompt, budget, model.block_size)
        elif rendering.fim_mode or rendering.context:
            ids = _render_text(tokenizer, model, prompt, rendering, None, budget)
            if len(ids) <= room and rendering.context:
                ids = _render_text(tokenizer, model, prompt, rendering, rendering.context, min(budget, room))
        else:
            ids = _render_raw(tokenizer, model, prompt, budget)
    except ValueError as error:  # UnsupportedError, or a window too short for the template
        raise InvalidRequestError(f"{error}.", param="suffix" if rendering.fim_mode else "prompt") from error
    if len(ids) > room:
        raise _too_long(model, str(len(ids)), rendering.max_tokens)
    return ids


def _render_text(
    tokenizer: Tokenizer,
    model: ModelInfo,
    prompt: str,
    rendering: Rendering,
    context: RepositoryContext | None,
    budget: int,
) -> list[int]:
    if rendering.fim_mode:
        return tokenizer.render_fim(
            prompt,
            rendering.suffix,
            mode=rendering.fim_mode,
            max_tokens=budget,
            block_size=model.block_size,
            context=context,
        )
    return tokenizer.render_plain(prompt, max_tokens=budget, block_size=model.block_size, context=context)


def _render_raw(tokenizer: Tokenizer, model: ModelInfo, prompt: str, budget: int) -> list[int]:
    """A prompt in which special tokens may stand on purpose.

    A FIM template in it survives truncation with its metadata; documents before it are dropped first.
    """
    limit = budget * _CHARS_PER_TOKEN
    fim = tokenizer.parse_fim(prompt)
    if fim is None:
        prompt = prompt[left_cut(len(prompt), limit, max(1, limit // 16)) :]
        return _cut_left(tokenizer.encode_prompt(prompt), budget, model.block_size)
    if len(prompt) <= limit:
        ids = tokenizer.encode_prompt(prompt)
        if len(ids) <= budget:
            return ids
    assert tokenizer.fim is not None
    header, started = tokenizer.encode_prompt(fim.header), tokenizer.encode(fim.started)
    room = budget - len(header) - len(started)
    ids = tokenizer.render_fim(fim.prefix, fim.suffix, mode=fim.mode, max_tokens=room, block_size=model.block_size)
    opens_prefix = tokenizer.fim.prefix if fim.mode == "psm" else tokenizer.fim.middle
    at = ids.index(opens_prefix) + 1
    return ids[:at] + header + ids[at:] + started


def _cut_left(ids: Sequence[int], budget: int, block_size: int) -> list[int]:
    return list(ids[left_cut(len(ids), budget, anchor_stride(budget, block_size)) :])


def _too_long(model: ModelInfo, prompt_tokens: str, max_tokens: int) -> ContextLengthError:
    return ContextLengthError(
        f"This model's maximum context length is {model.max_model_len} tokens, but the request needs "
        f"{prompt_tokens} for the prompt and {max(max_tokens, 1)} for the completion. Shorten the prompt, lower "
        "max_tokens, or set truncate_prompt_tokens to -1 to have the prompt cut to fit.",
        param="prompt",
    )
