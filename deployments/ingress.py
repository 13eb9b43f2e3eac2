"""The HTTP face: one FastAPI app that mounts every dialect over a backend.

Importing this module loads neither Ray nor PyTorch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from deployments.api.common.context import ApiContext
from deployments.api.common.json_body import validation_error
from deployments.api.common.line_ends import DocumentLines
from deployments.api.error_shapes import ErrorShapes
from deployments.api.openai.organization.route import OpenAdministration, administer
from deployments.api.openai.organization.routes import organization_router
from deployments.api.reference.documented import DocumentedApp
from deployments.api.registry import dialect_modules
from deployments.attribution.backend import AttributedBackend, Attributor
from deployments.errors import (
    ForbiddenError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    QuotaError,
    RateLimitedError,
    ServeError,
    TooLateError,
    UnauthorizedError,
    shown,
)
from deployments.http import request_record
from deployments.http.authentication import AsLocalMiddleware, AuthenticationMiddleware, Gatekeeper
from deployments.http.disclosure import DisclosureMiddleware
from deployments.http.door import ANYBODY, Access, DoorMiddleware
from deployments.http.middleware import (
    BodyMiddleware,
    ErrorMiddleware,
    HeadMiddleware,
    RequestIdMiddleware,
    ShapeMiddleware,
    error_response,
    error_shape,
    request_id,
)
from deployments.http.needs import Needs
from deployments.http.observation import ArrivedAgo, ObservationMiddleware, ObservedBackend
from deployments.http.people import People
from deployments.http.request_record import report
from deployments.labels import declared_labels
from deployments.limits import ApiLimits
from deployments.protocol import Backend
from deployments.teams.administration import Administration
from deployments.teams.records import Accepted
from model.text.tokenizer import Tokenizer
from monitoring import IngressMetrics
from monitoring.labels import DEFAULT_TEAM
from monitoring.tracing import OFF, Tracing
from monitoring.version import package_version

DESCRIPTION = """\
Code completion and fill-in-the-middle with the StarCoder family. OpenAI-compatible: any client of OpenAI works with
`/v1` below this address, and editors find the dialect that they speak.

A server that has keys takes one as `Authorization: Bearer sk-sc-...`. What OpenAI's documentation leaves open is in
`docs/api.md`; what ends a completion is in `docs/stop-rules.md`.
"""
"""What the API is, in Markdown."""


def create_app(
    *,
    backend: Backend,
    tokenizer: Tokenizer,
    limits: ApiLimits | None = None,
    metrics: IngressMetrics | None = None,
    metrics_directory: Path | None = None,
    model_card: str | None = None,
    answer_request_id: bool = True,
    tracing: Tracing = OFF,
    log_text: bool = False,
    access: Access = ANYBODY,
    gatekeeper: Gatekeeper | None = None,
    people: People | None = None,
    administration: OpenAdministration | None = None,
    accepted: Callable[[Accepted], None] | None = None,
    arrived_ago: ArrivedAgo | None = None,
    clock: Callable[[], float] = time.monotonic,
    attributor: Attributor | None = None,
) -> FastAPI:
    """The app over `backend`; `tokenizer` is the served model's. The model's name and window are the backend's.

    metrics: this process's recorder; None: one is made when the backend has said its model's name.
    metrics_directory: where the node's processes share their metrics; None: `/metrics` shows this process's own.
    model_card: what the checkpoint says of itself, in Markdown; None: nothing.
    answer_request_id: False where a proxy in front adds `x-request-id` to responses itself, as Ray Serve's does.
    log_text: the log line of a request holds its prompts and completions.
    access: by which names, and from which web pages. gatekeeper: knows keys; None: nobody is asked for one.
    people: who has signed in; None: there is no sign-on.
    administration: of teams and keys, see `administer`. accepted: see `ApiContext`.
    arrived_ago: how long ago a request came to the front, by its head; None: it came when it comes here.
    clock: of what requests wait, in seconds.
    attributor: looks for what completions repeat; None: nobody does.
    """
    observed = ObservedBackend(backend, tracing, tokenizer)
    documents: Backend = DocumentLines(observed, tokenizer)
    context = ApiContext(
        documents,
        tokenizer,
        limits or ApiLimits(),
        metrics_directory,
        model_card,
        people=people,
        accepted=accepted,
    )
    count_refusal = RefusalCounter(context, metrics)
    if attributor is not None:
        context.backend = AttributedBackend(documents, attributor, tokenizer, count_refusal.metrics)
    routes = [route for dialect in dialect_modules() for route in dialect.create_router(context).routes]
    needs = Needs(routes)
    app = DocumentedApp(
        needs,
        # `include_router` would have the first request wait until each of them is built once more.
        routes=routes,
        title="StarCoder Serve",
        version=package_version(),
        description=DESCRIPTION,
        openapi_url=None,  # which its pages would need, too
        redirect_slashes=False,
        # FastAPI's own telemetry would record what it validates, prompts included, and knows neither outcomes nor
        # clients that leave: `ObservationMiddleware` does what we want of it.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    administer(app, administration)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    # The last one added is the outermost.
    app.add_middleware(DisclosureMiddleware)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(
        BodyMiddleware,
        max_bytes=context.limits.max_body_bytes,
        timeout_s=context.limits.body_timeout_s,
        on_refused=count_refusal,
    )
    if gatekeeper is not None:
        app.add_middleware(AuthenticationMiddleware, gatekeeper=gatekeeper, needs=needs, people=people)
    app.add_middleware(ErrorMiddleware, on_refused=count_refusal)
    app.user_middleware[:0] = access.cors()
    app.add_middleware(DoorMiddleware, access=access, on_refused=count_refusal)
    app.add_middleware(
        ObservationMiddleware,
        tracing=tracing,
        metrics=count_refusal.metrics,
        log_text=log_text,
        arrived_ago=arrived_ago,
        clock=clock,
    )
    app.add_middleware(RequestIdMiddleware, answer=answer_request_id)
    app.add_middleware(ShapeMiddleware, shape_of=ErrorShapes(routes))
    return app


def create_administration_app(administration: Administration) -> FastAPI:
    """Only the routes of administrators, for whoever runs commands on the server's machine: no key is asked for."""
    app = FastAPI(routes=organization_router().routes, openapi_url=None, redirect_slashes=False)
    administer(app, lambda: administration)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_middleware(AsLocalMiddleware)
    app.add_middleware(ErrorMiddleware, on_refused=lambda error: None)
    return app


class RefusalCounter:
    """Counts refused requests by why, from when the model's name is known. metrics: the recorder, from then on."""

    def __init__(self, context: ApiContext, metrics: IngressMetrics | None) -> None:
        self._context = context
        self._metrics = metrics

    def metrics(self) -> IngressMetrics | None:
        if self._metrics is None and (model := self._context.known_model) is not None:
            self._metrics = IngressMetrics(model.id, declared=declared_labels())
        return self._metrics

    def __call__(self, error: ServeError) -> None:
        if (metrics := self.metrics()) is not None:
            record = request_record.current()
            metrics.rejected(refusal_reason(error), DEFAULT_TEAM if record is None else record.team)


def refusal_reason(error: ServeError) -> str:
    """One of `monitoring.labels.REJECTION_REASONS`."""
    by_class: dict[type[ServeError], str] = {
        UnauthorizedError: "unauthorized",
        ForbiddenError: "forbidden",
        RateLimitedError: "rate_limited",
        QuotaError: "quota",
        TooLateError: "deadline",
    }
    by_status = {413: "too_large", 429: "queue_full", 503: "unavailable"}
    if (reason := by_class.get(type(error))) is not None:
        return reason
    return by_status.get(error.status, "invalid" if error.status < 500 else "other")


async def _http_error(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    path, headers = request.url.path, dict(error.headers or {})
    found: ServeError
    if error.status_code == 404:
        found = NotFoundError(f"There is nothing at {shown(path)}; /docs lists what there is.")
    elif error.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request))
        found = MethodNotAllowedError(f"{shown(path)} takes {headers['Allow']} only; /docs says more.", headers=headers)
    else:
        found = InvalidRequestError(str(error.detail), status=error.status_code, headers=headers)
    return error_response(report(found, request_id(request.scope)), error_shape(request.scope))


def _methods(request: Request) -> list[str]:
    """What the path takes: Starlette names those of the first of its routes, and HEAD is answered where GET is."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    allowed = {method for route in matching for method in route.methods or ()}
    return sorted(allowed | ({"HEAD"} if "GET" in allowed else set()))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Raised again, so that there is one place where errors become answers: ErrorMiddleware.
    raise validation_error(error.errors())
