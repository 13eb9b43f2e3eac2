"""Asks for a key, once there is one: who may come in, and what a key may do.

A stranger's body is never read, and no request waits for a database: see `deployments.teams.directory`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import ForbiddenError, UnauthorizedError
from deployments.http import request_record
from deployments.http.needs import Need
from deployments.http.people import People
from deployments.teams.principal import LOCAL, Principal, set_principal
from deployments.teams.rate_limit_headers import headers_of

MAX_KEY_CHARS = 512


class Gatekeeper(Protocol):
    """What knows keys: `deployments.teams.directory.Directory`."""

    @property
    def closed(self) -> bool: ...
    async def principal(self, key: str) -> Principal: ...


class AuthenticationMiddleware:
    """Lets in whoever has a key that may do what the route needs; everybody, while there is no key.

    Routes of administrators need one always. people: who is signed in; None: nobody can be.
    Raises UnauthorizedError, ForbiddenError, AuthUnavailableError.
    """

    def __init__(
        self,
        app: ASGIApp,
        gatekeeper: Gatekeeper,
        needs: Callable[[str, str], Need],
        people: People | None = None,
    ) -> None:
        self.app = app
        self.gatekeeper = gatekeeper
        self.needs = needs
        self.people = people

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        need = self.needs(scope["method"], scope["path"])
        if need == "public" or not (self.gatekeeper.closed or need == "admin"):
            await self.app(scope, receive, send)
            return
        principal = await self._principal(scope["method"], Headers(scope=scope), need)
        record = request_record.current()
        if record is not None:
            record.of(principal)
        check(principal, need)
        set_principal(scope, principal)

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start" and record is not None and record.grant is not None:
                MutableHeaders(scope=message).update(headers_of(record.grant))
            await send(message)

        await self.app(scope, receive, send_with_limits)

    async def _principal(self, method: str, headers: Headers, need: Need) -> Principal:
        key = credential(headers)
        if key is None and self.people is not None:
            person = await self.people.principal(method, headers, need)
            if person is not None:
                return person
        if key is None:
            if not self.gatekeeper.closed:
                raise UnauthorizedError(
                    "This route is for administrators, and there is none yet: `starcoder keys create --admin`, on the "
                    "server's machine, makes the first key."
                )
            raise UnauthorizedError("This server needs an API key: send it as `Authorization: Bearer sk-sc-...`.")
        return await self.gatekeeper.principal(key)


class AsLocalMiddleware:
    """Takes every request for one of a command on the server's machine."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        set_principal(scope, LOCAL)
        await self.app(scope, receive, send)


def credential(headers: Headers) -> str | None:
    """The key that a request brings, in any of the ways of the dialects; None: it brings none.

    Raises UnauthorizedError for what cannot be one.
    """
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme and scheme.lower() != "bearer":
        raise UnauthorizedError("Authorization must be `Bearer` and an API key.")
    keys = (value.strip(), headers.get("x-api-key", "").strip(), headers.get("api-key", "").strip())
    key = next((key for key in keys if key), None)
    if key is not None and len(key) > MAX_KEY_CHARS:
        raise UnauthorizedError("What was sent is too long for an API key.")
    return key


def check(principal: Principal, need: Need) -> None:
    """Raise ForbiddenError where this caller may not do that."""
    if need in ("public", "key") or need in principal.scopes:
        return
    if principal.key is None and need == "generate":
        raise ForbiddenError("Completions are for owners and members of a team, on whose account they are.")
    if principal.is_admin:
        if need == "generate":
            raise ForbiddenError(
                "Administrators' keys run no completions, which would be on no team's account: use a key of a team."
            )
        return
    if principal.key is None:
        raise ForbiddenError(f"You may not do that: it takes the scope {need!r}.")
    raise ForbiddenError(f"This API key may not do that: it lacks the scope {need!r}.")
