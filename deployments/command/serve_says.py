"""What Ray Serve says of its applications."""

from __future__ import annotations

import contextlib
from typing import Any


def has_application() -> bool:
    """Whether the cluster has an application of our name. Raises whatever Ray raises."""
    from ray import serve

    from deployments.app import APP_NAME

    return APP_NAME in serve.status().applications


def serve_runs() -> bool:
    from ray import serve

    with contextlib.suppress(Exception):
        return bool(serve.status().proxies)
    return False


def failure(application: Any) -> str | None:
    """Why it does not come up, or None: Serve has given up, or a replica refused what it was to serve.

    Of that Serve would make a second attempt, which takes a large model minutes and says the same.
    """
    from ray.serve.schema import ApplicationStatus

    messages = [application.message, *(d.message for d in application.deployments.values())]
    refusal = next(filter(None, map(_refusal, messages)), None)
    if refusal is None and application.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
        return "\n".join(message for message in messages if message)
    return refusal


def _refusal(message: str) -> str | None:
    """The exception's own line of a message that holds the whole traceback."""
    named = [line for line in message.splitlines() if "ConfigError: " in line]
    return named[-1].partition("ConfigError: ")[2] if named else None
