"""How many tokens a completion may have where a client leaves that open, or asks for more than there is room for.

OpenAI's completions refuse what does not fit. Dialects of editors cut the prompt instead, and generate what is
left of the window.
"""

from __future__ import annotations

from dataclasses import dataclass

from deployments.api.common.context import ApiContext
from deployments.api.common.rendering import Prompts, Rendering, render_prompts
from deployments.protocol import ModelInfo

_LEAST_ROOM = 256
"""Tokens kept free for a completion of unknown length when a prompt is cut, in a window of at least four times that."""


@dataclass(frozen=True)
class Fitted:
    """prompts: token ids; max_tokens: what each completion may have, at least 1."""

    prompts: list[list[int]]
    max_tokens: int


async def fit_prompts(
    api: ApiContext,
    model: ModelInfo,
    prompts: Prompts,
    rendering: Rendering,
    wanted: int | None,
    *,
    unasked: int | None = None,
) -> Fitted:
    """Render with room for `wanted` tokens; None: for what is left, `unasked` at most.

    A rendering that may cut gives the completion up to half of the window and lowers `wanted` to what there is
    room for. Raises like `render_prompts`.
    """
    window, cuts = model.max_model_len, rendering.truncate is not None
    if wanted is None:
        reserve = min(_LEAST_ROOM, window // 4) if cuts else 1
    else:
        reserve = min(wanted, window // 2) if cuts else wanted
    ids = await render_prompts(api, model, prompts, rendering, reserve)
    room = window - max(len(prompt) for prompt in ids)
    limit = unasked if wanted is None else wanted
    return Fitted(ids, room if limit is None else max(1, min(limit, room)))
