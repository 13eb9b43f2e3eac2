"""People in teams: `/v1/organization/projects/{project_id}/users` and `/v1/organization/users`.

Their ids are the identity provider's (`sub`), which may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from deployments.api.common.examples import example
from deployments.api.common.paths import ANY_TEXT
from deployments.api.openai.organization.fields import Body
from deployments.api.openai.organization.listing import After, Deleted, Limit, ListPage
from deployments.api.openai.organization.path_ids import PersonId, ProjectId
from deployments.api.openai.organization.route import Visit, VisitOf
from deployments.errors import InvalidRequestError, NotFoundError, shown
from deployments.http.needs import needs
from deployments.teams.records import Member, Role, Team

UserId = Annotated[str, Field(min_length=1, max_length=1024)]


class ProjectUser(BaseModel):
    """Somebody in a team."""

    id: str = Field(description="Who it is, as the identity provider has it.")
    object: Literal["organization.project.user"] = Field(
        default="organization.project.user", description="What this is."
    )
    added_at: int = Field(description="Unix seconds.")
    role: Role = Field(
        description="owner: people, and all keys; member: keys of their own; viewer: looks. OpenAI has no viewer."
    )
    email: str | None = Field(description="As the identity provider said last.")
    name: str | None = Field(description="As the identity provider said last.")

    @classmethod
    def of(cls, member: Member) -> ProjectUser:
        return cls(
            id=member.user,
            added_at=int(member.created_at),
            role=member.role,
            email=member.email,
            name=member.name,
        )


class UserAddition(Body):
    model_config = example("Add a member", user_id="ada@example.com", role="member")

    user_id: UserId | None = Field(default=None, description="Who, as the identity provider has it (`sub`).")
    email: str | None = Field(
        default=None,
        max_length=320,
        description="Instead, from administrators only: of somebody who is in a team already.",
    )
    role: Role = Field(description="What they may do.")


class UserChange(Body):
    model_config = example("Make them an owner", role="owner")

    role: Role = Field(description="What they may do.")


class ProjectOfUser(BaseModel):
    id: str = Field(description="Id of the team.")
    name: str = Field(description="Its name.")
    role: Role = Field(description="Their role in it.")


class ProjectsOfUser(BaseModel):
    object: Literal["list"] = Field(default="list", description="What this is.")
    data: list[ProjectOfUser] = Field(description="The teams.")


class OrganizationUser(BaseModel):
    """Somebody in any team."""

    id: str = Field(description="Who it is, as the identity provider has it.")
    object: Literal["organization.user"] = Field(default="organization.user", description="What this is.")
    added_at: int = Field(description="When they came into the first team, in Unix seconds.")
    role: Literal["reader"] = Field(default="reader", description="People are no administrators by their teams.")
    email: str | None = Field(description="As the identity provider said last.")
    name: str | None = Field(description="As the identity provider said last.")
    projects: ProjectsOfUser = Field(description="Their teams.")


def add_routes(router: APIRouter) -> None:
    users, one = "/projects/{project_id}/users", f"/projects/{{project_id}}/users/{{user_id:{ANY_TEXT}}}"

    @router.post(users, summary="Put somebody into a team", response_description="The person.")
    @needs("key")
    async def add(project_id: ProjectId, body: UserAddition, visit: VisitOf) -> ProjectUser:
        team = await visit.team(project_id, "members.change")
        person = await _meant(visit, team, body)
        member = Member(user=person.user, team_id=team.id, role=body.role, email=person.email, name=person.name)
        return ProjectUser.of(await visit.administration.store.set_member(visit.actor, member))

    @router.get(users, summary="List the people of a team", response_description="The people, by their ids.")
    @needs("key")
    async def list_users(
        project_id: ProjectId, visit: VisitOf, after_user: After = None, limit: Limit = 20
    ) -> ListPage[ProjectUser]:
        team = await visit.team(project_id, "members.read")
        members = {member.user: member for member in await visit.administration.store.members(team.id)}
        found, has_more = _after(members, after_user, limit)
        return ListPage[ProjectUser].of((found, has_more), lambda user: ProjectUser.of(members[user]), _same)

    @router.get(one, summary="Describe somebody in a team", response_description="The person.")
    @needs("key")
    async def retrieve(project_id: ProjectId, user_id: PersonId, visit: VisitOf) -> ProjectUser:
        team = await visit.team(project_id, "members.read")
        return ProjectUser.of(await _member(visit, team.id, user_id))

    @router.post(one, summary="Give somebody another role", response_description="The person.")
    @needs("key")
    async def update(project_id: ProjectId, user_id: PersonId, body: UserChange, visit: VisitOf) -> ProjectUser:
        team = await visit.team(project_id, "members.change")
        before = await _member(visit, team.id, user_id)
        member = Member(user=user_id, team_id=team.id, role=body.role, email=before.email, name=before.name)
        return ProjectUser.of(await visit.administration.store.set_member(visit.actor, member))

    @router.delete(one, summary="Take somebody out of a team", response_description="They are in it no more.")
    @needs("key")
    async def remove(project_id: ProjectId, user_id: PersonId, visit: VisitOf) -> Deleted:
        """The keys of the team that they made are revoked."""
        team = await visit.team(project_id, "members.change")
        await visit.administration.store.remove_member(visit.actor, team.id, user_id)
        return Deleted(id=user_id, object="organization.project.user.deleted")

    @router.get("/users", summary="List all people", response_description="The people, by their ids.")
    @needs("admin")
    async def list_all(
        visit: VisitOf,
        after_user: After = None,
        limit: Limit = 20,
        emails: Annotated[list[str] | None, Query(max_length=100, description="Of these only.")] = None,
    ) -> ListPage[OrganizationUser]:
        visit.check_admin()
        members = await _by_user(visit)
        if emails is not None:
            members = {user: of for user, of in members.items() if any(member.email in emails for member in of)}
        found, has_more = _after(members, after_user, limit)
        names = await _team_names(visit)
        return ListPage[OrganizationUser].of(
            (found, has_more), lambda user: _organization_user(members[user], names), _same
        )

    @router.get(f"/users/{{user_id:{ANY_TEXT}}}", summary="Describe somebody", response_description="The person.")
    @needs("admin")
    async def retrieve_any(user_id: PersonId, visit: VisitOf) -> OrganizationUser:
        visit.check_admin()
        if (members := (await _by_user(visit)).get(user_id)) is None:
            raise _nobody(user_id)
        return _organization_user(members, await _team_names(visit))

    @router.delete(f"/users/{{user_id:{ANY_TEXT}}}", summary="Let somebody go", response_description="They are gone.")
    @needs("admin")
    async def let_go(user_id: PersonId, visit: VisitOf) -> Deleted:
        """They are signed out and in no team any more, and the keys that they made are revoked."""
        visit.check_admin()
        if not await visit.administration.store.remove_person(visit.actor, user_id):
            raise _nobody(user_id)
        return Deleted(id=user_id, object="organization.user.deleted")


def _after(users: Iterable[str], cursor: str | None, limit: int) -> tuple[list[str], bool]:
    """In the order of their ids, so that a page needs nobody from the one before."""
    found = sorted(user for user in users if cursor is None or user > cursor)
    return found[:limit], len(found) > limit


def _same(user: str) -> str:
    return user


async def _meant(visit: Visit, team: Team, body: UserAddition) -> Member:
    """With an address and a name only of whom the caller may see: administrators everybody, others the team's people.

    An address comes from the provider alone, which has verified it. Raises InvalidRequestError.
    """
    if body.user_id is not None and body.email is not None:
        raise InvalidRequestError("One of `user_id` and `email`: the provider says which address is whose.")
    if body.user_id is None and not visit.principal.is_admin:
        raise InvalidRequestError(
            "`user_id` is needed: their id, as the identity provider has it. Only administrators look for addresses.",
            param="user_id",
        )
    seen = await visit.administration.store.members(None if visit.principal.is_admin else team.id)
    if body.user_id is not None:
        known = [member for member in seen if member.user == body.user_id]
        return known[-1] if known else Member(user=body.user_id, team_id=team.id, role=body.role)
    found = {member.user: member for member in seen if body.email is not None and member.email == body.email}
    if len(found) != 1:
        who = "nobody in any team has" if not found else "more than one person has"
        raise InvalidRequestError(f"`user_id` is needed: {who} this address.", param="user_id")
    return next(iter(found.values()))


async def _member(visit: Visit, team_id: str, user: str) -> Member:
    members = await visit.administration.store.members(team_id)
    found = next((member for member in members if member.user == user), None)
    if found is None:
        raise _nobody(user)
    return found


def _nobody(user: str) -> NotFoundError:
    return NotFoundError(f"There is nobody {shown(user)}.")


async def _by_user(visit: Visit) -> dict[str, list[Member]]:
    found: dict[str, list[Member]] = {}
    for member in await visit.administration.store.members():
        found.setdefault(member.user, []).append(member)
    return found


async def _team_names(visit: Visit) -> dict[str, str]:
    return {team.id: team.name for team in await visit.administration.store.teams(archived=True)}


def _organization_user(members: list[Member], names: dict[str, str]) -> OrganizationUser:
    newest = members[-1]
    teams = [ProjectOfUser(id=of.team_id, name=names.get(of.team_id, of.team_id), role=of.role) for of in members]
    return OrganizationUser(
        id=newest.user,
        added_at=int(members[0].created_at),
        email=newest.email,
        name=newest.name,
        projects=ProjectsOfUser(data=teams),
    )
