"""From what a client calls a prompt to token ids that fit the model's window.

Here is said what a request asks for, and what is refused; how it becomes ids is `model.text.prompts`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from deployments.api.common.context import ApiContext
from deployments.api.common.line_ends import with_unix_lines
from deployments.api.common.off_loop import off_loop
from deployments.api.parameters.bounds import INT32_MAX, INT64_MAX, check_token_ids
from deployments.errors import ContextLengthError, InvalidRequestError
from deployments.protocol import ModelInfo
from model.text.prompts import Infill, PromptForm, PromptTooLongError, Raw, render
from model.text.tokenizer import Tokenizer
from model.text.truncation import Window

_THREAD_CHARS = 8_000
"""Text longer than this (2 to 10 ms of tokenizing) is tokenized off the event loop."""

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

    form: what their text stands for.
    truncate: None refuses what does not fit; -1 cuts to what fits; k cuts to at most k tokens.
    """

    form: PromptForm = field(default_factory=Raw)
    truncate: int | None = None


async def render_prompts(
    api: ApiContext, model: ModelInfo, prompts: Prompts, rendering: Rendering, max_tokens: int
) -> list[list[int]]:
    """Token ids of every prompt, with room for `max_tokens` of a completion behind it.

    Raises ContextLengthError for what does not fit, InvalidRequestError for what the model cannot do.
    """
    if max_tokens >= model.max_model_len:
        raise ContextLengthError(
            f"This model's maximum context length is {model.max_model_len} tokens; "
            f"max_tokens ({max_tokens}) leaves no room for a prompt.",
            param="max_tokens",
        )
    prompts, form = with_unix_lines(api.tokenizer, prompts, rendering.form)
    rendering = replace(rendering, form=form)
    suffix_tokens = api.tokenizer.least_tokens(form.suffix)
    for prompt in prompts:
        _check(api, model, prompt, rendering, max_tokens, suffix_tokens)
    is_long = sum(len(prompt) for prompt in prompts) + rendering.form.length > _THREAD_CHARS
    return await off_loop(is_long, _render_all, api.tokenizer, model, prompts, rendering, max_tokens)


def _check(
    api: ApiContext,
    model: ModelInfo,
    prompt: str | list[int],
    rendering: Rendering,
    max_tokens: int,
    suffix_tokens: int,
) -> None:
    form = rendering.form
    if not prompt and not isinstance(form, Infill):  # a file to be filled may be empty
        raise _invalid("is empty; it must hold at least one token or character")
    if isinstance(prompt, str):
        # Said without tokenizing megabytes first.
        if rendering.truncate is None:
            least = api.tokenizer.least_tokens(prompt) + suffix_tokens
            if least >= model.max_model_len:
                raise _too_long(model, f"at least {least}", max_tokens)
    else:
        if rendering.truncate is None and len(prompt) >= model.max_model_len:
            raise _too_long(model, str(len(prompt)), max_tokens)
        check_token_ids("prompt", prompt, api.tokenizer.vocab_size)
        if not isinstance(form, Raw):
            raise _invalid("fill-in-the-middle and repository context need the prompt as text, not ids")


def _render_all(
    tokenizer: Tokenizer, model: ModelInfo, prompts: Prompts, rendering: Rendering, max_tokens: int
) -> list[list[int]]:
    tokenizer = tokenizer.remembering()
    return [_render(tokenizer, model, prompt, rendering, max_tokens) for prompt in prompts]


def _render(
    tokenizer: Tokenizer, model: ModelInfo, prompt: str | list[int], rendering: Rendering, max_tokens: int
) -> list[int]:
    room = model.max_model_len - max(max_tokens, 1)
    if rendering.truncate is not None and rendering.truncate >= 0:
        room = min(room, rendering.truncate)
    window = Window(room, model.block_size, cuts=rendering.truncate is not None)
    try:
        ids = render(tokenizer, prompt, rendering.form, window)
        if not ids:
            raise ValueError(f"a window of {room} tokens has no room for a prompt")
    except PromptTooLongError as error:
        raise _too_long(model, str(error.length), max_tokens) from error
    except ValueError as error:  # UnsupportedError, or a window too short
        param = "suffix" if isinstance(rendering.form, Infill) else "prompt"
        raise InvalidRequestError(f"{error}.", param=param) from error
    return ids


def _invalid(problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"`prompt`: {problem}.", param="prompt", code="invalid_value")


def _too_long(model: ModelInfo, prompt_tokens: str, max_tokens: int) -> ContextLengthError:
    return ContextLengthError(
        f"This model's maximum context length is {model.max_model_len} tokens, but the request needs "
        f"{prompt_tokens} for the prompt and {max(max_tokens, 1)} for the completion. Shorten the prompt, lower "
        "max_tokens, or set truncate_prompt_tokens to -1 to have the prompt cut to fit.",
        param="prompt",
    )
