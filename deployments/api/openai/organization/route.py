"""What the routes of administrators have in common: who asks, over which database, and how they fail."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

from fastapi import Depends, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.common.json_body import JsonRoute
from deployments.errors import ForbiddenError, InvalidRequestError, NotFoundError, ServeError, shown
from deployments.teams import store_errors
from deployments.teams.administration import Administration
from deployments.teams.permissions import TeamAction, check_admin, check_team, known, no_team, teams_for
from deployments.teams.principal import Principal, principal_of
from deployments.teams.records import Key, Team

RETRY_AFTER_S = 2.0

OpenAdministration = Callable[[], Administration | None]
"""None while the database was never reached."""


def administer(app: FastAPI, administration: OpenAdministration | None) -> None:
    """Over which database the app's routes are; None: over none, so that everything but a stranger is answered 503."""
    app.state.administration = administration or _none


def _none() -> None:
    return None


@dataclass(frozen=True)
class Visit:
    """One request of somebody who is known. Its methods raise NotFoundError, ForbiddenError and StoreError."""

    principal: Principal
    administration: Administration

    @property
    def actor(self) -> str:
        return self.principal.actor

    async def team(self, project_id: str, action: TeamAction) -> Team:
        """By its id or its name; one that is somebody else's is not there."""
        try:
            team = await self.administration.store.team(project_id)
        except store_errors.NotFoundError:
            raise no_team() from None
        check_team(self.principal, action, team.id)
        return team

    async def key(self, team: Team, key_id: str) -> Key:
        """One of the team's; one of another team is not there."""
        try:
            key = await self.administration.store.key(key_id)
        except store_errors.NotFoundError:
            key = None
        if key is None or key.team_id != team.id:
            raise NotFoundError(f"There is no key {shown(key_id)} in this team.")
        return key

    def report(self) -> AbstractContextManager[None]:
        """While it runs. Raises RateLimitedError where too many do."""
        return self.administration.reports.one(self.actor)

    def teams(self, action: TeamAction) -> frozenset[str] | None:
        """See `teams_for`."""
        return teams_for(self.principal, action)

    def check_admin(self) -> None:
        check_admin(self.principal)


def _visit(request: Request) -> Visit:
    principal = known(principal_of(request.scope))
    administration: Administration | None = request.app.state.administration()
    if administration is None:
        raise _unavailable("The database of teams has not been reached yet.")
    return Visit(principal, administration)


VisitOf = Annotated[Visit, Depends(_visit)]
"""The visit of a route, as FastAPI fills it in."""


class OrganizationRoute(JsonRoute):
    """Says what the store says in HTTP. A parameter that the route does not have is refused: it would narrow what is
    summed or listed. `name[]=a&name[]=b`, as OpenAI's clients write lists, is `name=a&name=b`.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        parameters = {parameter.alias for parameter in self.dependant.query_params}

        async def handle_visit(request: Request) -> Response:
            request.scope["query_string"] = _checked_query(request.scope["query_string"], parameters)
            try:
                return await handle(Request(request.scope, request.receive))
            except store_errors.StoreError as error:
                raise serve_error(error) from error

        return handle_visit


def serve_error(error: store_errors.StoreError) -> ServeError:
    """How it is answered."""
    message = f"{str(error)[:1].upper()}{str(error)[1:]}."
    if isinstance(error, store_errors.NotFoundError):
        return NotFoundError(message)
    if isinstance(error, store_errors.NotAllowedError):
        return ForbiddenError(message)
    if isinstance(error, store_errors.NameTakenError):
        return InvalidRequestError(message, status=409, code="name_taken", param="name")
    if isinstance(error, store_errors.TooLongError):
        return InvalidRequestError(message, code="report_too_long")
    if isinstance(error, store_errors.InvalidChangeError):
        return InvalidRequestError(message, code="invalid_change")
    return _unavailable("The database of teams does not answer at the moment.")


def _unavailable(message: str) -> ServeError:
    return ServeError(message, status=503, code="database_unavailable", retry_after=RETRY_AFTER_S)


def _checked_query(query: bytes, known_names: set[str]) -> bytes:
    """Raises InvalidRequestError."""
    pairs = [(name.removesuffix("[]"), value) for name, value in parse_qsl(query.decode("latin-1"), True)]
    for name, _ in pairs:
        if name not in known_names:
            raise InvalidRequestError(
                f"This route has no parameter {shown(name)}.", param=name, code="unknown_parameter"
            )
    return urlencode(pairs).encode()
