"""Work that is linear in what a client sends or gets, but long: no event loop is held for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from deployments.protocol import Delta

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_LONG_ANSWER = 2_000
"""Tokens and alternatives, which are written in some 5 ms."""


async def off_loop(
    is_long: bool, work: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """What `work` returns or raises; run in a thread where it is long."""
    return await asyncio.to_thread(work, *args, **kwargs) if is_long else work(*args, **kwargs)


def is_long(deltas: Iterable[Delta], alternatives: int | None = None) -> bool:
    """Whether writing these takes long, with so many alternatives for each token, and with what is said of prompts."""
    tokens = sum(len(delta.token_ids) + len(delta.prompt_logprobs or ()) for delta in deltas)
    return tokens * (1 + (alternatives or 0)) > _LONG_ANSWER
