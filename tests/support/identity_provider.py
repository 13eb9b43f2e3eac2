"""A small OpenID Connect provider: it signs with RS256, changes its keys, checks its clients, and lies when told to."""

from __future__ import annotations

import base64
import hashlib
import html
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.support.http_server import serving

CLIENT_ID = "starcoder"
CLIENT_SECRET = "s3cret/with+signs"


@dataclass
class Somebody:
    """Of the provider's people. email_verified: None: nothing is said of it."""

    sub: str
    name: str
    email: str
    groups: list[str] = field(default_factory=list)
    email_verified: bool | None = True

    def claims(self) -> dict[str, object]:
        verified = {} if self.email_verified is None else {"email_verified": self.email_verified}
        return {"name": self.name, "email": self.email, "groups": self.groups, **verified}


@dataclass
class _Grant:
    person: Somebody
    nonce: str
    challenge: str
    redirect_uri: str


@dataclass
class IdentityProvider:
    """people: by `sub`. here: who is signed in at the provider, and is asked nothing.

    lies: claims of the ID token that are put in place of the true ones; None: left out. header: of the token likewise.
    in_token: whether the ID token tells who somebody is, or userinfo alone. asked: paths, as they came.
    """

    people: dict[str, Somebody] = field(default_factory=dict)
    here: str | None = None
    lies: dict[str, object] = field(default_factory=dict)
    signed_by: RSAKey | OctKey | None = None
    away: bool = False
    refuses: str | None = None
    in_token: bool = True
    says_iss: str | None = None
    userinfo_sub: str | None = None
    ends_sessions: bool = True
    asked: list[str] = field(default_factory=list)
    issuer: str = ""
    keys: list[RSAKey] = field(default_factory=list)
    _codes: dict[str, _Grant] = field(default_factory=dict)
    _tokens: dict[str, Somebody] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rotate()

    def add(self, sub: str, name: str, *groups: str, email_verified: bool | None = True) -> Somebody:
        self.people[sub] = Somebody(sub, name, f"{sub}@example.com", list(groups), email_verified)
        return self.people[sub]

    def rotate(self) -> None:
        """From now on a new key signs, and the old one is gone."""
        self.keys = [RSAKey.generate_key(2048, {"kid": secrets.token_hex(4), "use": "sig"}, private=True)]

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discovery),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
                Route("/jwks", self._jwks),
                Route("/userinfo", self._userinfo),
                Route("/goodbye", self._goodbye),
            ]
        )

    def _answers(self, request: Request) -> None:
        self.asked.append(request.url.path)
        if self.away:
            raise HTTPException(503)

    async def _discovery(self, request: Request) -> Response:
        self._answers(request)
        ends = {"end_session_endpoint": f"{self.issuer}/goodbye"} if self.ends_sessions else {}
        return JSONResponse(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
                "userinfo_endpoint": f"{self.issuer}/userinfo",
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                "authorization_response_iss_parameter_supported": self.says_iss is not None,
                **ends,
            }
        )

    async def _authorize(self, request: Request) -> Response:
        self._answers(request)
        query = request.query_params
        assert query["client_id"] == CLIENT_ID
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        assert "openid" in query["scope"].split()
        back = {"state": query["state"], **({"iss": self.says_iss} if self.says_iss else {})}
        if self.refuses:
            return RedirectResponse(f"{query['redirect_uri']}?{urlencode({'error': self.refuses, **back})}")
        chosen = query.get("login_as", self.here)
        if chosen is None:
            return self._who(request)
        code = secrets.token_urlsafe(16)
        self._codes[code] = _Grant(self.people[chosen], query["nonce"], query["code_challenge"], query["redirect_uri"])
        return RedirectResponse(f"{query['redirect_uri']}?{urlencode({'code': code, **back})}")

    def _who(self, request: Request) -> Response:
        links = "".join(
            f'<p><a href="{html.escape(str(request.url.include_query_params(login_as=sub)))}">{person.name}</a></p>'
            for sub, person in self.people.items()
        )
        return HTMLResponse(
            f'<!doctype html><html lang="en"><title>Who are you?</title><link rel="icon" href="data:,">{links}</html>'
        )

    async def _token(self, request: Request) -> Response:
        self._answers(request)
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        given = base64.b64decode(request.headers.get("authorization", "Basic ").removeprefix("Basic ")).decode()
        if given != urlencode({CLIENT_ID: CLIENT_SECRET}).replace("=", ":"):
            return JSONResponse({"error": "invalid_client"}, 401)
        grant = self._codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if grant is None or (grant.challenge, grant.redirect_uri) != (challenge.decode(), form["redirect_uri"]):
            return JSONResponse({"error": "invalid_grant"}, 400)
        access_token = secrets.token_urlsafe(16)
        self._tokens[access_token] = grant.person
        token = {"access_token": access_token, "token_type": "Bearer", "id_token": self._id_token(grant)}
        return JSONResponse(token, headers={"cache-control": "no-store"})

    def _id_token(self, grant: _Grant) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "sub": grant.person.sub,
            "iat": now,
            "exp": now + 300,
            "nonce": grant.nonce,
            **(grant.person.claims() if self.in_token else {}),
            **self.lies,
        }
        key = self.signed_by or self.keys[0]
        algorithm = "HS256" if isinstance(key, OctKey) else "RS256"
        true = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode({"alg": algorithm, "kid": self.keys[0].kid}, true, key, algorithms=[algorithm])

    async def _jwks(self, request: Request) -> Response:
        self._answers(request)
        other = {"kty": "EC", "crv": "secp999", "kid": "unknown-curve", "x": "AA", "y": "AA"}
        return JSONResponse({"keys": [other, *(key.as_dict(private=False) for key in self.keys)]})

    async def _userinfo(self, request: Request) -> Response:
        self._answers(request)
        person = self._tokens[request.headers["authorization"].removeprefix("Bearer ")]
        return JSONResponse({"sub": self.userinfo_sub or person.sub, **person.claims()})

    async def _goodbye(self, request: Request) -> Response:
        self._answers(request)
        assert request.query_params["client_id"] == CLIENT_ID
        self.here = None
        return RedirectResponse(request.query_params["post_logout_redirect_uri"])


@contextmanager
def identity_provider() -> Iterator[IdentityProvider]:
    """One that runs."""
    provider = IdentityProvider()
    with serving(provider.app()) as url:
        provider.issuer = url
        yield provider
