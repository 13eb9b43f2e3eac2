"""What people's cookies are called and say, and what those may do who have one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from starlette.datastructures import Headers

from deployments.errors import ForbiddenError, InvalidRequestError
from deployments.http.people import Cookies, People
from deployments.teams.records import Role, Scope, Team

ADS, OLD, SEARCH = (
    Team(id=f"team_{name}", name=name, created_at=0, archived_at=7.0 if name == "old" else None)
    for name in ("ads", "old", "search")
)


@pytest.mark.parametrize(
    ("url", "prefix", "secure"),
    [("https://ide.test/code", "__Host-", True), ("http://ide.test:8000", "", False)],
)
def test_where_it_speaks_tls_no_neighbour_sets_or_reads_its_cookies(url: str, prefix: str, secure: bool) -> None:
    cookies = Cookies(url)
    assert cookies.origin == url.removesuffix("/code")
    assert (cookies.session, cookies.attempt) == (f"{prefix}starcoder-session", f"{prefix}starcoder-sign-in")
    assert cookies.header("a", "b", 59.6) == (
        "a=b; Path=/; Max-Age=60; HttpOnly; SameSite=Lax" + ("; Secure" if secure else "")
    )


def test_a_cookie_is_read_from_whichever_field_it_came_in() -> None:
    headers = Headers(raw=[(b"cookie", b"a=1; b=2"), (b"cookie", b"c=3")])
    cookies = Cookies("http://ide.test")
    assert [cookies.read(headers, name) for name in "abcd"] == ["1", "2", "3", None]
    assert cookies.read(Headers({}), "a") is None


def people(roles: dict[str, Role], admin: bool = False) -> People:
    """One of them, of whom the cookie `known` tells."""
    found = SimpleNamespace(roles=roles, session=SimpleNamespace(user="bob", admin=admin))

    async def find(token: str) -> object:
        return found if token == "known" else None

    sign_on = SimpleNamespace(public_url="http://ide.test", sessions=SimpleNamespace(find=find))
    directory = SimpleNamespace(team={team.id: team for team in (ADS, OLD, SEARCH)}.get)
    return People(sign_on, directory)  # type: ignore[arg-type]


def sent(token: str = "known", **fields: str) -> Headers:
    own = {"cookie": f"starcoder-session={token}", "origin": "http://ide.test"}
    return Headers(own | {name.replace("_", "-"): value for name, value in fields.items()})


@pytest.mark.parametrize(
    ("roles", "admin", "scopes", "team"),
    [
        ({}, False, (), None),
        ({}, True, ("admin", "metrics"), None),
        ({ADS.id: "viewer"}, False, ("usage",), ADS),
        ({ADS.id: "member"}, False, ("usage", "generate"), ADS),
        ({ADS.id: "owner"}, True, ("admin", "metrics", "usage", "generate"), ADS),
        ({OLD.id: "owner"}, False, ("usage",), None),
        ({OLD.id: "owner", ADS.id: "member"}, False, ("usage", "generate"), ADS),
        ({"team_gone": "owner", ADS.id: "member"}, False, ("usage", "generate"), ADS),
    ],
)
async def test_what_somebody_may_do_by_their_roles(
    roles: dict[str, Role], admin: bool, scopes: tuple[Scope, ...], team: Team | None
) -> None:
    principal = await people(roles, admin).principal("POST", sent(), "generate")
    assert principal is not None
    assert (principal.scopes, principal.team, principal.user, principal.roles) == (scopes, team, "bob", roles)
    assert principal.key is None


BOTH: dict[str, Role] = {ADS.id: "member", SEARCH.id: "viewer"}


@pytest.mark.parametrize(
    ("named", "team", "scopes"),
    [("ads", ADS, ("usage", "generate")), (SEARCH.id, SEARCH, ("usage",)), ("", None, ("usage",))],
)
async def test_who_is_in_two_teams_says_for_which_it_is(
    named: str, team: Team | None, scopes: tuple[Scope, ...]
) -> None:
    principal = await people(BOTH).principal("GET", sent(openai_project=named), "usage")
    assert principal is not None
    assert (principal.team, principal.scopes) == (team, scopes)


async def test_who_does_not_say_it_or_says_another_is_told() -> None:
    with pytest.raises(InvalidRequestError, match="You are in 2 teams") as error:
        await people(BOTH).principal("POST", sent(), "generate")
    assert (error.value.status, error.value.code) == (400, "team_required")
    for roles, named in ((BOTH, "old"), ({OLD.id: "owner"}, "old"), ({}, "ads")):
        with pytest.raises(ForbiddenError, match=f"You are in no team '{named}'"):
            await people(roles).principal("POST", sent(openai_project=named), "generate")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE"])
@pytest.mark.parametrize("token", ["known", "unknown", "x" * 201])
async def test_pages_of_others_may_read_what_they_cannot_see_and_do_nothing(method: str, token: str) -> None:
    call = people({}).principal(method, sent(token, origin="https://elsewhere.test"), "key")
    if token == "known" and method in ("POST", "DELETE"):
        with pytest.raises(ForbiddenError, match="own pages only"):
            await call
    else:
        assert (await call is not None) == (token == "known")


def test_a_token_has_a_length_that_none_of_ours_exceeds() -> None:
    one = people({})
    assert one.token(sent("x" * 200)) == "x" * 200
    assert one.token(sent("x" * 201)) is None
    assert one.token(Headers({})) is None
