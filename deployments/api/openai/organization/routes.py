"""OpenAI's administration API over this server's teams, so that its own client drives it.

Source: the resources `admin.organization` of openai-python 3.54. A project is a team. What OpenAI has not (weights,
classes, budgets, prices, keys with scopes) is in more fields and more routes of the same style. Who may do what:
`deployments.teams.permissions`.
"""

from __future__ import annotations

from functools import cache

from fastapi import APIRouter

from deployments.api.common.context import ApiContext
from deployments.api.common.section import ADMINISTRATION
from deployments.api.openai.organization import (
    admin_api_keys,
    all_keys,
    api_keys,
    audit_logs,
    limits,
    me,
    people,
    prices,
    projects,
    usage,
    usage_csv,
)
from deployments.api.openai.organization.route import OrganizationRoute
from deployments.api.openai.schemas import ERROR_RESPONSES

_SUBJECTS = (
    projects.add_routes,
    api_keys.add_routes,
    api_keys.add_service_account_routes,
    limits.add_routes,
    people.add_routes,
    admin_api_keys.add_routes,
    all_keys.add_routes,
    usage.add_routes,
    usage_csv.add_routes,
    prices.add_routes,
    audit_logs.add_routes,
    me.add_routes,
)


@cache
def organization_router() -> APIRouter:
    """For every app of this process: `administer` says over which database an app's are."""
    router = APIRouter(
        prefix="/v1/organization",
        route_class=OrganizationRoute,
        tags=[ADMINISTRATION.name],
        responses=ERROR_RESPONSES,
    )
    for add_routes in _SUBJECTS:
        add_routes(router)
    return router


def create_router(api: ApiContext) -> APIRouter:
    return organization_router()
