"""People who have signed in: their cookie, and on which team's account they ask."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from deployments.errors import ForbiddenError, InvalidRequestError, shown
from deployments.http.needs import Need
from deployments.teams.directory import Directory
from deployments.teams.principal import Principal
from deployments.teams.records import Role, Scope, Team
from deployments.teams.sessions import SignedIn
from deployments.teams.sign_on import SignOn

TEAM_HEADER = "openai-project"
"""OpenAI's clients send it: there a team is a project."""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_MAX_TOKEN_CHARS = 200


class Cookies:
    """Names and attributes of this server's cookies. public_url: by which browsers reach it."""

    def __init__(self, public_url: str) -> None:
        url = urlsplit(public_url)
        self.origin = f"{url.scheme}://{url.netloc}"
        self.secure = url.scheme == "https"
        prefix = "__Host-" if self.secure else ""  # no neighbour below the same name can set such a one
        self.session = f"{prefix}starcoder-session"
        self.attempt = f"{prefix}starcoder-sign-in"

    def read(self, headers: Headers, name: str) -> str | None:
        return cookie_parser("; ".join(headers.getlist("cookie"))).get(name)

    def header(self, name: str, value: str, lifetime_s: float) -> str:
        """The value of `Set-Cookie`. lifetime_s: 0 takes it away."""
        secure = "; Secure" if self.secure else ""
        return f"{name}={value}; Path=/; Max-Age={lifetime_s:.0f}; HttpOnly; SameSite=Lax{secure}"


class People:
    """From a request's cookie to who asks."""

    def __init__(self, sign_on: SignOn, directory: Directory) -> None:
        self.sign_on = sign_on
        self.cookies = Cookies(sign_on.public_url)
        self._directory = directory

    def token(self, headers: Headers) -> str | None:
        token = self.cookies.read(headers, self.cookies.session)
        return token if token is not None and len(token) <= _MAX_TOKEN_CHARS else None

    async def signed_in(self, headers: Headers) -> SignedIn | None:
        """Raises AuthUnavailableError where nobody can tell."""
        token = self.token(headers)
        return None if token is None else await self.sign_on.sessions.find(token)

    async def principal(self, method: str, headers: Headers, need: Need) -> Principal | None:
        """None: nobody is signed in.

        Raises AuthUnavailableError; ForbiddenError for what a page of somebody else's may have sent, or for a team
        that is not theirs; InvalidRequestError where the account is not clear.
        """
        found = await self.signed_in(headers)
        if found is None:
            return None
        if method not in _SAFE_METHODS and not self.is_ours(headers):
            raise ForbiddenError("A session works from this server's own pages only: programs use an API key.")
        team, role = self._team(found, headers.get(TEAM_HEADER), need)
        return Principal(team=team, user=found.session.user, roles=found.roles, scopes=_scopes(found, team, role))

    def is_ours(self, headers: Headers) -> bool:
        """Whether a page of this server sent it: browsers say so themselves, and no page can forge it."""
        return (
            headers.get("origin") == self.cookies.origin
            if "origin" in headers
            else headers.get("sec-fetch-site") == "same-origin"
        )

    def _team(self, found: SignedIn, named: str | None, need: Need) -> tuple[Team | None, Role | None]:
        known = (self._directory.team(id) for id in found.roles)
        teams = [team for team in known if team is not None and team.archived_at is None]
        if named:
            chosen = next((team for team in teams if named in (team.id, team.name)), None)
            if chosen is None:
                raise ForbiddenError(f"You are in no team {shown(named)}.")
        elif len(teams) > 1 and need == "generate":
            raise InvalidRequestError(
                f"You are in {len(teams)} teams: the header OpenAI-Project says for which one this is.",
                code="team_required",
            )
        else:
            chosen = teams[0] if len(teams) == 1 else None
        return chosen, None if chosen is None else found.roles[chosen.id]


def _scopes(found: SignedIn, team: Team | None, role: Role | None) -> tuple[Scope, ...]:
    scopes: list[Scope] = []
    if found.session.admin:
        scopes += ["admin", "metrics"]
    if found.roles:
        scopes.append("usage")
    if team is not None and role in ("owner", "member"):
        scopes.append("generate")
    return tuple(scopes)
