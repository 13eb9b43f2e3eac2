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


def reason(application: Any) -> str:
    """The exception's own line out of Serve's message, which holds the whole traceback."""
    messages = [application.message, *(d.message for d in application.deployments.values())]
    for message in messages:
        for line in reversed(message.splitlines()):
            if "ConfigError: " in line:
                return line.partition("ConfigError: ")[2]
    return "\n".join(message for message in messages if message)
