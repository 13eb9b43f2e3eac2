"""Work that cannot meet its deadline is not started: its client may have an answer elsewhere, or wants none then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deployments.errors import TooLateError
from deployments.protocol import GenerationRequest
from deployments.replica.admission import RETRY_AFTER_BOUNDS_S
from deployments.replica.backlog import Standing
from deployments.replica.demand import Demand
from deployments.replica.pace import Pace
from deployments.replica.sessions import Turn


@contextmanager
def in_time(request: GenerationRequest, turn: Turn, demand: Demand, pace: Pace) -> Iterator[None]:
    """Raises TooLateError where what waits before the request takes the engine longer than its client will wait.

    That is what the engine has, and pieces of long prompts. Not where its client has a part of the answer, or is about
    to get one that is known already.
    """
    begun = bool(request.earlier) or turn.typed is not None
    if request.deadline_s is not None and not begun:
        standing = Standing.of(request)
        wait = demand.wait_of(sum(map(len, request.prompts)), standing)
        if turn.key is not None:
            wait = max(wait, *(pace.wait_of(turn.key, prompt, standing) for prompt in request.prompts))
        if wait > request.deadline_s:
            low, high = RETRY_AFTER_BOUNDS_S
            raise TooLateError(
                f"The first token is wanted within {request.deadline_s:g} s, but would wait for {wait:.1f} s.",
                retry_after=min(max(wait - request.deadline_s, low), high),
            )
    yield
