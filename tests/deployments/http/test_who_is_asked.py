"""The piece that asks for a key, alone: whom it asks, what it notes of them, and what it says to who may not."""

from __future__ import annotations

import asyncio
from contextvars import Context

import msgspec
import pytest
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import ForbiddenError, UnauthorizedError
from deployments.http.authentication import AsLocalMiddleware, AuthenticationMiddleware, check
from deployments.http.needs import Need
from deployments.teams.counting import Allowance, Grant
from deployments.teams.principal import LOCAL, Principal, principal_of
from deployments.teams.records import Scope as KeyScope
from tests.deployments.http.test_middleware import answers, nobody, request, told
from tests.support.accounts import ASKER, KEY, TEAM, asking
from tests.support.gatekeepers import Keyring, bearer


async def test_a_command_on_the_servers_machine_asks_as_its_administrator() -> None:
    scope = request()
    start, _ = await told(AsLocalMiddleware(answers), scope)
    assert (start["status"], principal_of(scope)) == (200, LOCAL)


def guarded(keyring: Keyring, need: Need, app: ASGIApp = answers) -> AuthenticationMiddleware:
    def asked(method: str, path: str) -> Need:
        assert (method, path) == ("POST", "/v1/completions")
        return need

    return AuthenticationMiddleware(app, keyring, asked)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("need", ["public", "key", "generate", "admin"])
async def test_who_has_to_say_who_they_are(closed: bool, need: Need) -> None:
    """Administrators always, for whom there is a way to get the first key."""
    keyring, scope = Keyring(closed=closed), request()
    if need != "public" and (closed or need == "admin"):
        with pytest.raises(UnauthorizedError, match="needs an API key" if closed else "starcoder keys create --admin"):
            await told(guarded(keyring, need), scope)
    else:
        assert (await told(guarded(keyring, need), scope))[0]["status"] == 200
    assert principal_of(scope) is None


@pytest.mark.parametrize("recorded", [True, False])
async def test_who_has_a_key_is_known_from_then_on_and_hears_what_its_limits_leave(recorded: bool) -> None:
    keyring = Keyring()
    key = keyring.add("red")
    seen: list[Principal | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(principal_of(scope))
        record.grant = Grant(requests=Allowance(limit=9, remaining=4, reset_s=1.5))
        await answers(scope, receive, send)

    with asking(None) as record:
        call = told(guarded(keyring, "generate", app), request(**bearer(key)))
        # a task of its own is of no request
        start, body = await call if recorded else await asyncio.create_task(call, context=Context())
    assert seen == [keyring.principals[key]]
    limit = Headers(raw=start["headers"]).get("x-ratelimit-remaining-requests")
    assert limit == ("4" if recorded else None)
    assert body == {"type": "http.response.body", "body": b"{}"}
    assert (record.principal, record.team) == ((seen[0], "red") if recorded else (None, "default"))


async def test_who_may_not_is_in_the_record_all_the_same() -> None:
    keyring = Keyring()
    key = keyring.add("red", ("usage",))
    with asking(None) as record, pytest.raises(ForbiddenError):
        await told(guarded(keyring, "generate", nobody), request(**bearer(key)))
    assert record.team == "red"


PERSON = Principal(team=TEAM, user="bob", scopes=("usage",))


@pytest.mark.parametrize(
    ("principal", "need", "words"),
    [
        (PERSON, "generate", "owners and members of a team"),
        (PERSON, "metrics", "You may not do that: it takes the scope 'metrics'"),
        (msgspec.structs.replace(PERSON, scopes=("admin",)), "generate", "owners and members of a team"),
        (ASKER, "usage", "This API key may not do that: it lacks the scope 'usage'"),
        (Principal(team=None, key=KEY, scopes=("admin",)), "generate", "Administrators' keys run no completions"),
    ],
)
def test_who_may_not_is_told_why(principal: Principal, need: KeyScope, words: str) -> None:
    with pytest.raises(ForbiddenError, match=words):
        check(principal, need)
