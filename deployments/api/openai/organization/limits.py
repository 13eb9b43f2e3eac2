"""Limits and budgets as OpenAI has them: `.../rate_limits` and `.../spend_limit` of a project.

Limits are of all models together: a team has one rate limit, of the model `*`. A spend limit is a hard budget a month,
in whole cents; `budget` of the project itself has the other kinds.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, Field

from deployments.api.common.examples import example
from deployments.api.openai.organization.fields import Body, cents, of_cents
from deployments.api.openai.organization.listing import After, Limit, ListPage, after
from deployments.api.openai.organization.path_ids import ProjectId, RateLimitId
from deployments.api.openai.organization.route import VisitOf
from deployments.errors import NotFoundError, shown
from deployments.http.needs import needs
from deployments.teams.administration import ANY_MODEL
from deployments.teams.records import Budget, Spent, Team

RATE_LIMIT = "all"
"""Id of the one that a team has."""

_MOST_CENTS = 10**9


class RateLimit(BaseModel):
    id: str = Field(default=RATE_LIMIT, description="A team has this one.")
    object: Literal["project.rate_limit"] = Field(default="project.rate_limit", description="What this is.")
    model: str = Field(default=ANY_MODEL, description="All models together.")
    max_requests_per_1_minute: int | None = Field(description="Most requests a minute; null: no limit.")
    max_tokens_per_1_minute: int | None = Field(description="Most tokens a minute; null: no limit.")
    max_parallel_requests: int | None = Field(description="Most requests at once; null: no limit.")


class RateLimitChange(Body):
    model_config = example("Limit requests and tokens", max_requests_per_1_minute=600, max_tokens_per_1_minute=200_000)

    max_requests_per_1_minute: int | None = Field(default=None, ge=1, description="Most requests a minute.")
    max_tokens_per_1_minute: int | None = Field(default=None, ge=1, description="Most tokens a minute.")
    max_parallel_requests: int | None = Field(default=None, ge=1, description="Most requests at once.")


class Enforcement(BaseModel):
    status: Literal["inactive", "enforcing"] = Field(description="Whether it is used up.")


class SpendLimit(BaseModel):
    object: Literal["project.spend_limit"] = Field(default="project.spend_limit", description="What this is.")
    threshold_amount: int = Field(description="Cents a month.")
    currency: Literal["USD"] = Field(default="USD", description="Of the amount.")
    interval: Literal["month"] = Field(default="month", description="A calendar month in UTC.")
    enforcement: Enforcement = Field(description="How it stands.")


class SpendLimitChange(Body):
    model_config = example("Limit it to 250 USD a month", threshold_amount=25_000, currency="USD", interval="month")

    threshold_amount: int = Field(ge=0, le=_MOST_CENTS, description="Cents a month.")
    currency: Literal["USD"] = Field(description="Of the amount.")
    interval: Literal["month"] = Field(description="A calendar month in UTC.")


class SpendLimitDeleted(BaseModel):
    object: Literal["project.spend_limit.deleted"] = Field(
        default="project.spend_limit.deleted", description="What it was."
    )
    deleted: Literal[True] = Field(default=True, description="It is no more.")


_OF_LIMITS = {
    "max_requests_per_1_minute": "requests_per_minute",
    "max_tokens_per_1_minute": "tokens_per_minute",
    "max_parallel_requests": "parallel",
}


def add_routes(router: APIRouter) -> None:
    @router.get(
        "/projects/{project_id}/rate_limits", summary="List the limits of a team", response_description="There is one."
    )
    @needs("key")
    async def list_rate_limits(
        project_id: ProjectId,
        visit: VisitOf,
        after_id: After = None,
        limit: Limit = 100,
    ) -> ListPage[RateLimit]:
        team = await visit.team(project_id, "team.read")
        return ListPage[RateLimit].of(
            after([_rate_limit(team)], after_id, limit, _id), lambda rate_limit: rate_limit, _id
        )

    @router.post(
        "/projects/{project_id}/rate_limits/{rate_limit_id}",
        summary="Change the limits of a team",
        response_description="The limits.",
    )
    @needs("key")
    async def update(
        project_id: ProjectId, rate_limit_id: RateLimitId, body: RateLimitChange, visit: VisitOf
    ) -> RateLimit:
        team = await visit.team(project_id, "team.change")
        if rate_limit_id != RATE_LIMIT:
            raise NotFoundError(f"There is no rate limit {shown(rate_limit_id)}; a team has {RATE_LIMIT!r}.")
        sent = {ours: getattr(body, name) for name, ours in _OF_LIMITS.items() if name in body.model_fields_set}
        limits = msgspec.structs.replace(team.limits, **sent)
        return _rate_limit(await visit.administration.store.set_team(visit.actor, team.id, limits=limits))

    spend_limit = "/projects/{project_id}/spend_limit"

    @router.get(spend_limit, summary="What a team may spend a month", response_description="The hard limit.")
    @needs("key")
    async def retrieve_spend_limit(project_id: ProjectId, visit: VisitOf) -> SpendLimit:
        team = await visit.team(project_id, "team.read")
        return _spend_limit(team, await visit.administration.store.spent())

    @router.post(spend_limit, summary="Limit what a team may spend a month", response_description="The hard limit.")
    @needs("key")
    async def update_spend_limit(project_id: ProjectId, body: SpendLimitChange, visit: VisitOf) -> SpendLimit:
        team, store = await visit.team(project_id, "team.change"), visit.administration.store
        budget = Budget(amount=of_cents(body.threshold_amount), period="month", hard=True)
        return _spend_limit(await store.set_team(visit.actor, team.id, budget=budget), await store.spent())

    @router.delete(spend_limit, summary="Let a team spend what it will", response_description="There is no limit.")
    @needs("key")
    async def delete_spend_limit(project_id: ProjectId, visit: VisitOf) -> SpendLimitDeleted:
        team = await visit.team(project_id, "team.change")
        _hard_month(team)
        await visit.administration.store.set_team(visit.actor, team.id, budget=None)
        return SpendLimitDeleted()


def _rate_limit(team: Team) -> RateLimit:
    return RateLimit(
        max_requests_per_1_minute=team.limits.requests_per_minute,
        max_tokens_per_1_minute=team.limits.tokens_per_minute,
        max_parallel_requests=team.limits.parallel,
    )


def _id(rate_limit: RateLimit) -> str:
    return rate_limit.id


def _hard_month(team: Team) -> Budget:
    """Raises NotFoundError where its budget is none of OpenAI's spend limits."""
    if team.budget is None or not team.budget.hard or team.budget.period != "month":
        raise NotFoundError(f"Team {team.name} has no hard limit a month; `budget` of the project says what it has.")
    return team.budget


def _spend_limit(team: Team, spent: dict[str, Spent]) -> SpendLimit:
    budget = _hard_month(team)
    used_up = team.id in spent and spent[team.id].amount >= budget.amount
    return SpendLimit(
        threshold_amount=cents(budget.amount), enforcement=Enforcement(status="enforcing" if used_up else "inactive")
    )
