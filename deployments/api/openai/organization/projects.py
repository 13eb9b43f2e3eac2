"""Teams, which OpenAI calls projects: `/v1/organization/projects`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from msgspec import UNSET
from pydantic import Field

from deployments.api.common.examples import example
from deployments.api.openai.organization.fields import (
    Body,
    BudgetAnswer,
    BudgetBody,
    LimitFields,
    LimitsAnswer,
    seconds,
)
from deployments.api.openai.organization.listing import After, Limit, ListPage, after
from deployments.api.openai.organization.path_ids import ProjectId
from deployments.api.openai.organization.route import VisitOf
from deployments.http.needs import needs
from deployments.teams.records import NO_LIMITS, ServiceClass, Spent, Team
from model.request import LEAST_WEIGHT, MOST_WEIGHT

Weight = Annotated[float, Field(ge=LEAST_WEIGHT, le=MOST_WEIGHT)]


class Project(LimitsAnswer):
    """A team."""

    id: str = Field(description="Id of the team.")
    object: Literal["organization.project"] = Field(default="organization.project", description="What this is.")
    created_at: int = Field(description="Unix seconds.")
    name: str = Field(description="Its name, which commands and metrics use.")
    status: Literal["active", "archived"] = Field(description="Whether it is in use.")
    archived_at: int | None = Field(description="Unix seconds; null: it is in use.")
    weight: float = Field(description="Its share of a full server, against others of its class.")
    service_class: ServiceClass = Field(description="In this order teams are served: interactive, standard, batch.")
    budget: BudgetAnswer | None = Field(description="What it may spend; null: no limit.")
    terms_version: str | None = Field(description="Version of the use restrictions that were accepted for it.")
    terms_accepted_at: int | None = Field(description="When, in Unix seconds.")
    terms_accepted_by: str | None = Field(description="By whom, as the audit log has it.")

    @classmethod
    def of(cls, team: Team, spent: dict[str, Spent]) -> Project:
        return cls(
            id=team.id,
            created_at=int(team.created_at),
            name=team.name,
            status="active" if team.archived_at is None else "archived",
            archived_at=seconds(team.archived_at),
            weight=team.weight,
            service_class=team.service_class,
            requests_per_minute=team.limits.requests_per_minute,
            tokens_per_minute=team.limits.tokens_per_minute,
            parallel=team.limits.parallel,
            budget=BudgetAnswer.of(team, spent.get(team.id)),
            terms_version=team.terms_version,
            terms_accepted_at=seconds(team.terms_accepted_at),
            terms_accepted_by=team.terms_accepted_by,
        )


class ProjectCreation(LimitFields):
    model_config = example(
        "Make a team with a budget",
        name="search-team",
        tokens_per_minute=200_000,
        budget={"amount_usd": "250", "period": "month", "hard": False},
    )

    name: str = Field(max_length=64, description="1 to 64 of a-z, 0-9, `-`, `_` and `.`.")
    weight: Weight = Field(default=1.0, description="Its share of a full server, against others of its class.")
    service_class: ServiceClass = Field(default="standard", description="In this order teams are served.")
    budget: BudgetBody | None = Field(default=None, description="What it may spend.")


class ProjectChange(LimitFields):
    model_config = example("Give it twice the share", weight=2.0, requests_per_minute=600)

    name: str | None = Field(default=None, max_length=64, description="Its new name.")
    weight: Weight | None = Field(default=None, description="Its share of a full server.")
    service_class: ServiceClass | None = Field(default=None, description="In this order teams are served.")
    budget: BudgetBody | None = Field(default=None, description="What it may spend; null: no limit any more.")


class Terms(Body):
    model_config = example("Accept them", version="BigCode OpenRAIL-M v1")

    version: str = Field(min_length=1, max_length=200, description="Of the use restrictions, as `/terms` says it.")


def add_routes(router: APIRouter) -> None:
    @router.post("/projects", summary="Make a team", response_description="The team.")
    @needs("admin")
    async def create(body: ProjectCreation, visit: VisitOf) -> Project:
        visit.check_admin()
        team = await visit.administration.store.create_team(
            visit.actor,
            body.name,
            weight=body.weight,
            service_class=body.service_class,
            limits=body.limits(NO_LIMITS),
            budget=None if body.budget is None else body.budget.budget(),
        )
        return Project.of(team, {})

    @router.get("/projects", summary="List one's own teams, or all", response_description="The teams.")
    @needs("key")
    async def list_projects(
        visit: VisitOf,
        after_id: After = None,
        limit: Limit = 20,
        include_archived: Annotated[bool, Query(description="Those too.")] = False,
    ) -> ListPage[Project]:
        store, own = visit.administration.store, visit.teams("team.read")
        teams = sorted(await store.teams(archived=True), key=lambda team: (team.created_at, team.id))
        spent = await store.spent()

        def shows(team: Team) -> bool:
            return (own is None or team.id in own) and (include_archived or team.archived_at is None)

        found = after(teams, after_id, limit, _id, shows)
        return ListPage[Project].of(found, lambda team: Project.of(team, spent), _id)

    @router.get("/projects/{project_id}", summary="Describe a team", response_description="The team.")
    @needs("key")
    async def retrieve(project_id: ProjectId, visit: VisitOf) -> Project:
        team = await visit.team(project_id, "team.read")
        return Project.of(team, await visit.administration.store.spent())

    @router.post("/projects/{project_id}", summary="Change a team", response_description="The team.")
    @needs("key")
    async def update(project_id: ProjectId, body: ProjectChange, visit: VisitOf) -> Project:
        team = await visit.team(project_id, "team.change")
        store, budget = visit.administration.store, None if body.budget is None else body.budget.budget()
        team = await store.set_team(
            visit.actor,
            team.id,
            name=UNSET if body.name is None else body.name,
            weight=UNSET if body.weight is None else body.weight,
            service_class=UNSET if body.service_class is None else body.service_class,
            limits=body.limits(team.limits),
            budget=budget if "budget" in body.model_fields_set else UNSET,
        )
        return Project.of(team, await store.spent())

    @router.post("/projects/{project_id}/archive", summary="End a team", response_description="The team.")
    @needs("key")
    async def archive(project_id: ProjectId, visit: VisitOf) -> Project:
        """Its keys are revoked with it; its usage stays."""
        team = await visit.team(project_id, "team.change")
        return Project.of(await visit.administration.store.archive_team(visit.actor, team.id), {})

    @router.post("/projects/{project_id}/terms", summary="Accept use restrictions", response_description="The team.")
    @needs("key")
    async def accept_terms(project_id: ProjectId, body: Terms, visit: VisitOf) -> Project:
        team = await visit.team(project_id, "terms.accept")
        store = visit.administration.store
        return Project.of(await store.accept_terms(visit.actor, team.id, body.version), await store.spent())


def _id(team: Team) -> str:
    return team.id
