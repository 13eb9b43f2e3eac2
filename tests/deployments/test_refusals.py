"""Why a request was refused, as it is counted; and the app of administrators, which refuses as the whole one does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast
from unittest.mock import Mock

import httpx
import pytest
import pytest_asyncio

from deployments import errors, ingress
from deployments.errors import ServeError
from deployments.ingress import create_administration_app, refusal_reason
from deployments.teams.administration import Administration
from model.text.tokenizer import Tokenizer
from monitoring.labels import REJECTION_REASONS
from monitoring.version import package_version
from tests.support.fake_backend import FakeBackend

REASONS = {
    errors.UnauthorizedError: "unauthorized",
    errors.ForbiddenError: "forbidden",
    errors.RateLimitedError: "rate_limited",
    errors.QuotaError: "quota",
    errors.TooLateError: "deadline",
    errors.OverloadedError: "queue_full",
    errors.BodyTooLargeError: "too_large",
    errors.AuthUnavailableError: "unavailable",
    errors.DrainingError: "unavailable",
    errors.NotFoundError: "invalid",
    errors.InvalidRequestError: "invalid",
    errors.InternalError: "other",
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_refusal_is_counted_by_why(kind: type[ServeError]) -> None:
    assert refusal_reason(kind("why")) == REASONS[kind]
    assert REASONS[kind] in REJECTION_REASONS
    assert refusal_reason(ServeError("why", status=499)) == "invalid"
    assert refusal_reason(ServeError("why", status=500)) == "other"


def test_refusals_are_counted_once_the_model_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    made, context = Mock(), Mock(known_model=None)
    monkeypatch.setattr(ingress, "IngressMetrics", made)
    count = ingress.RefusalCounter(context, None)
    count(errors.QuotaError("why"))
    assert made.mock_calls == []
    context.known_model = Mock(id="x")
    for _ in range(2):
        count(errors.QuotaError("why"))
    made.assert_called_once_with("x", declared=ingress.declared_labels())
    assert made.return_value.rejected.mock_calls == [(("quota", "default"),)] * 2
    given = Mock()
    ingress.RefusalCounter(context, given)(errors.InternalError("why"))
    given.rejected.assert_called_once_with("other", "default")


@pytest_asyncio.fixture
async def office() -> AsyncIterator[httpx.AsyncClient]:
    """Of administrators, without a database behind it."""
    app = create_administration_app(cast(Administration, Mock(spec=Administration)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/organization/nowhere", None, 404, "not_found"),
        ("GET", "/v1/organization/projects/", None, 404, "not_found"),
        ("GET", "/openapi.json", None, 404, "not_found"),
        ("PUT", "/v1/organization/projects", None, 405, "method_not_allowed"),
        ("POST", "/v1/organization/projects", {"name": 5}, 400, "invalid_value"),
        ("GET", "/v1/organization/projects?limit=x", None, 400, "invalid_value"),
    ],
)
async def test_the_app_of_administrators_refuses_as_the_whole_one_does(
    office: httpx.AsyncClient, method: str, path: str, body: Any, status: int, code: str | None
) -> None:
    response = await office.request(method, path, json=body)
    assert response.status_code == status
    assert list(response.json()["error"]) == ["message", "type", "param", "code"]
    assert (response.json()["error"]["type"], response.json()["error"]["code"]) == ("invalid_request_error", code)


def test_the_whole_app_says_what_and_which_version_it_is_of(fake_backend: FakeBackend, tokenizer: Tokenizer) -> None:
    app = ingress.create_app(backend=fake_backend, tokenizer=tokenizer)
    assert (app.title, app.version) == ("StarCoder Serve", package_version())
    assert app.description.startswith("Code completion and fill-in-the-middle")
