"""A request that the engine gave up: every dialect says so in its own shape of an error, with one sentence."""

from __future__ import annotations

from deployments.errors import EngineUnavailableError
from deployments.protocol import Delta


def check_not_given_up(delta: Delta) -> None:
    """Raise EngineUnavailableError where the engine gave up the request of this delta."""
    if delta.finish_reason == "abort":
        raise EngineUnavailableError("The engine gave up this request.", retry_after=1.0)
