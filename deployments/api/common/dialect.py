"""What a dialect says of itself: a module of `deployments.api` that has a `DIALECT` speaks it."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.http.middleware import ErrorShape, openai_error


@dataclass(frozen=True, eq=False)
class Dialect:
    """name: value of the metrics' label `dialect`, and of the field in the log.

    title: whose it is, for people; empty: it is this server's own, and no client of other people speaks it.
    error_shape: from a failure to its HTTP status and body.
    """

    name: str
    title: str
    error_shape: ErrorShape = openai_error
