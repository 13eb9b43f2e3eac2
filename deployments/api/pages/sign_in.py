"""Signing in and out: `/login`, `/login/callback`, `/logout`, and `/login/session`, which says who is here."""

from __future__ import annotations

import logging

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.common.context import ApiContext
from deployments.api.pages.markdown_page import to_page
from deployments.api.pages.static_content import page_headers
from deployments.errors import ForbiddenError
from deployments.http.needs import public
from deployments.http.people import People
from deployments.teams.exchanges import ATTEMPT_S
from deployments.teams.sign_in_errors import LaterError, ProviderAwayError, SignInError
from monitoring import logs

TARGETS = ("/teams", "/", "/docs")
"""Where people may go once they have signed in: pages of ours, and nowhere else."""

_PRIVATE = {"cache-control": "no-store", "referrer-policy": "no-referrer"}


class _User(msgspec.Struct, frozen=True):
    id: str
    email: str | None
    name: str | None


class _Here(msgspec.Struct, frozen=True):
    """sign_on: whether there is one. user: who is signed in."""

    sign_on: bool
    user: _User | None = None


class _Left(msgspec.Struct, frozen=True):
    """location: where a page goes from here."""

    location: str


class SignIn:
    """The routes' answers."""

    def __init__(self, people: People) -> None:
        self._people = people
        self._sign_on = people.sign_on
        self._cookies = people.cookies

    @public
    async def login(self, request: Request) -> Response:
        wanted = request.query_params.get("next")
        target = wanted if wanted in TARGETS else TARGETS[0]
        try:
            location, attempt = await self._sign_on.provider.begin(target)
        except SignInError as error:
            return _problem(error, "")
        kept = await self._sign_on.attempts.write(attempt)
        return self._go(location, {self._cookies.attempt: (kept, ATTEMPT_S)})

    @public
    async def callback(self, request: Request) -> Response:
        kept = self._cookies.read(request.headers, self._cookies.attempt)
        attempt = None if kept is None else await self._sign_on.attempts.read(kept)
        try:
            token = await self._sign_on.finish(attempt, dict(request.query_params))
        except SignInError as error:
            return _problem(error, "../")
        assert attempt is not None
        made = {self._cookies.session: (token, self._sign_on.lifetime_s), self._cookies.attempt: ("", 0.0)}
        return self._go(self._sign_on.public_url + attempt.target, made)

    @public
    async def logout(self, request: Request) -> Response:
        """Ends the session here; the answer says where the one at the provider is ended."""
        if not self._people.is_ours(request.headers):
            raise ForbiddenError("Only this server's own pages sign people out.")
        if (token := self._people.token(request.headers)) is not None:
            await self._sign_on.sessions.end(token)
        home = self._sign_on.public_url + TARGETS[0]
        try:
            location = await self._sign_on.provider.goodbye(home) or home
        except ProviderAwayError:
            location = home
        response = _json(_Left(location))
        response.headers["set-cookie"] = self._cookies.header(self._cookies.session, "", 0)
        return response

    @public
    async def session(self, request: Request) -> Response:
        found = await self._people.signed_in(request.headers)
        if found is None:
            return _json(_Here(True))
        return _json(_Here(True, _User(found.session.user, found.session.email, found.session.name)))

    def _go(self, location: str, cookies: dict[str, tuple[str, float]]) -> Response:
        """cookies: by name, their values and for how many seconds."""
        response = Response(status_code=303, headers={**_PRIVATE, "location": location})
        for name, (value, lifetime_s) in cookies.items():
            response.headers.append("set-cookie", self._cookies.header(name, value, lifetime_s))
        return response


@public
async def no_sign_on(request: Request) -> Response:
    return _json(_Here(False))


def _json(value: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(value), headers=_PRIVATE, media_type="application/json")


def _problem(error: SignInError, root: str) -> Response:
    logs.event("sign_on.failed", error.reason, level=logging.WARNING)
    again = f"[Try again]({root}login) or go to the [playground]({root or './'})."
    page = to_page("Not signed in", f"# You are not signed in\n\n{error.message}\n\n{again}\n", root)
    headers = {**page_headers("text/html; charset=utf-8"), **_PRIVATE}
    return Response(page, status_code=503 if isinstance(error, LaterError) else 400, headers=headers)


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    if api.people is None:
        router.add_api_route("/login/session", no_sign_on, methods=["GET"])
        return router
    sign_in = SignIn(api.people)
    router.add_api_route("/login", sign_in.login, methods=["GET"])
    router.add_api_route("/login/callback", sign_in.callback, methods=["GET"])
    router.add_api_route("/login/session", sign_in.session, methods=["GET"])
    router.add_api_route("/logout", sign_in.logout, methods=["POST"])
    return router
