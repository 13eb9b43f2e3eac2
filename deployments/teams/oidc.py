"""OpenID Connect, as a client of any provider: the authorization code flow with PKCE, `state` and `nonce`.

OpenID Connect Core 1.0, section 3.1, and Discovery 1.0; PKCE is RFC 7636, `iss` in the answer RFC 9207.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx
import msgspec
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jws, jwt
from joserfc.errors import JoseError

from deployments.teams.exchanges import Exchanges
from deployments.teams.provider_keys import ProviderKeys
from deployments.teams.sign_in import Attempt, Person
from deployments.teams.sign_in_errors import ProviderAwayError, SignInError

TIMEOUT_S = 10.0
LEEWAY_S = 60
"""By which the provider's clock and ours may differ."""

DISCOVERY_S = 3600.0
"""So long what the provider says of itself is believed."""

RETRY_S = 2.0
"""Between looks for a provider that is away."""

_VERIFIER_BYTES = 48  # 64 characters, of the 43 to 128 that RFC 7636 allows
_MAX_NAME_CHARS = 200
_MAX_GROUPS = 2000


class Discovery(msgspec.Struct, frozen=True):
    """What a provider says of itself."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    end_session_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str
    access_token: str | None = None


class _Refusal(msgspec.Struct, frozen=True):
    error: str = ""


class Provider:
    """redirect_uri: where it sends people back to. secret: None for a client that has none. close it at the end."""

    def __init__(
        self,
        issuer: str,
        client_id: str,
        secret: str | None,
        redirect_uri: str,
        *,
        scopes: str = "openid email profile",
        groups_claim: str = "groups",
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._secret = secret
        self._redirect_uri = redirect_uri
        self._scopes = scopes
        self._groups_claim = groups_claim
        self._now = now
        self._clock = clock
        self._http = httpx.AsyncClient(timeout=TIMEOUT_S)
        self._keys = ProviderKeys(self._get, clock)
        self._exchanges = Exchanges(clock)
        self._known: Discovery | None = None
        self._known_at = -float("inf")
        self._away: ProviderAwayError | None = None
        self._away_at = -float("inf")
        self._discovering = asyncio.Lock()

    async def close(self) -> None:
        await self._http.aclose()

    async def begin(self, target: str) -> tuple[str, Attempt]:
        """Where a person has to go, and what their browser keeps. Raises SignInError."""
        provider = await self._discovery()
        attempt = Attempt(
            state=secrets.token_urlsafe(32),
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(_VERIFIER_BYTES),
            target=target,
        )
        question = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._redirect_uri,
            "scope": self._scopes,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": create_s256_code_challenge(attempt.verifier),
            "code_challenge_method": "S256",
        }
        return _with_query(provider.authorization_endpoint, question), attempt

    async def finish(self, attempt: Attempt | None, answer: Mapping[str, str]) -> Person:
        """Who came back. attempt: what their browser kept; answer: the query they came with. Raises SignInError."""
        if attempt is None or not hmac.compare_digest(answer.get("state", "").encode(), attempt.state.encode()):
            raise SignInError("This sign-in was not begun in this browser, or too long ago.", "state")
        if "error" in answer:
            raise SignInError("The identity provider refused to sign you in.", f"provider: {answer['error'][:80]}")
        provider = await self._discovery()
        told = answer.get("iss")
        if told != self._issuer if told is not None else provider.authorization_response_iss_parameter_supported:
            raise _untrusted("iss of the answer")
        with self._exchanges.one(attempt.state):
            return await self._person_of(provider, answer.get("code", ""), attempt)

    async def goodbye(self, target: str) -> str | None:
        """Where a person ends their session at the provider, to come back to `target`; None where it has no such."""
        provider = await self._discovery()
        if provider.end_session_endpoint is None:
            return None
        question = {"client_id": self._client_id, "post_logout_redirect_uri": target}
        return _with_query(provider.end_session_endpoint, question)

    async def _person_of(self, provider: Discovery, code: str, attempt: Attempt) -> Person:
        tokens = await self._exchange(provider, code, attempt)
        claims = await self._checked(provider, tokens, attempt)
        if provider.userinfo_endpoint and tokens.access_token and not {"email", self._groups_claim} <= claims.keys():
            claims = {**await self._userinfo(provider, tokens.access_token, str(claims["sub"])), **claims}
        return self._person(claims)

    async def _discovery(self) -> Discovery:
        """Where it does not answer, whoever comes in the next moments hears of it at once."""
        async with self._discovering:
            if self._known is not None and self._clock() - self._known_at < DISCOVERY_S:
                return self._known
            if self._away is not None and self._clock() - self._away_at < RETRY_S:
                raise ProviderAwayError(self._away.reason)
            try:
                self._known = await self._discover()
            except ProviderAwayError as error:
                self._away, self._away_at = error, self._clock()
                raise
            self._known_at = self._clock()
            return self._known

    async def _discover(self) -> Discovery:
        document = await self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        try:
            found = msgspec.json.decode(document, type=Discovery)
        except msgspec.DecodeError as error:
            raise ProviderAwayError(f"discovery: {error}") from None
        if found.issuer != self._issuer:
            raise ProviderAwayError(f"it calls itself {found.issuer[:200]!r}, not {self._issuer!r}")
        endpoints = (found.authorization_endpoint, found.token_endpoint, found.jwks_uri, found.userinfo_endpoint)
        if self._issuer.startswith("https:") and any(end and not end.startswith("https:") for end in endpoints):
            raise ProviderAwayError("an endpoint is not https")
        return found

    async def _get(self, url: str, token: str | None = None) -> bytes:
        headers = {"accept": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
        try:
            answer = await self._http.get(url, headers=headers)
        except httpx.HTTPError as error:
            raise ProviderAwayError(f"{urlsplit(url).path}: {type(error).__name__}") from None
        if answer.status_code != 200:
            raise ProviderAwayError(f"{urlsplit(url).path}: status {answer.status_code}")
        return answer.content

    async def _exchange(self, provider: Discovery, code: str, attempt: Attempt) -> _Tokens:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "client_id": self._client_id,
            "code_verifier": attempt.verifier,
        }
        auth = None
        if self._secret is not None and "client_secret_basic" in provider.token_endpoint_auth_methods_supported:
            auth = httpx.BasicAuth(quote_plus(self._client_id), quote_plus(self._secret))
        elif self._secret is not None:
            form["client_secret"] = self._secret
        try:
            answer = await self._http.post(provider.token_endpoint, data=form, auth=auth or httpx.USE_CLIENT_DEFAULT)
        except httpx.HTTPError as error:
            raise ProviderAwayError(f"token: {type(error).__name__}") from None
        if answer.status_code >= 500:
            raise ProviderAwayError(f"token: status {answer.status_code}")
        if answer.status_code != 200:
            raise SignInError("The identity provider refused to sign you in.", f"token: {_why(answer.content)}")
        try:
            return msgspec.json.decode(answer.content, type=_Tokens)
        except msgspec.DecodeError as error:
            raise _untrusted(f"token answer: {error}") from None

    async def _checked(self, provider: Discovery, tokens: _Tokens, attempt: Attempt) -> dict[str, object]:
        """The claims of the ID token. Raises SignInError where one is not what it has to be (Core, 3.1.3.7)."""
        try:
            kid = jws.extract_compact(tokens.id_token.encode()).headers().get("kid")
            keys = await self._keys.newest(provider.jwks_uri, kid)
            token = jwt.decode(tokens.id_token, keys.set, algorithms=keys.algorithms)
            claims = CodeIDToken(
                token.claims,
                token.header,
                {
                    "iss": {"essential": True, "value": self._issuer},
                    "aud": {"essential": True, "value": self._client_id},
                },
                {"nonce": attempt.nonce, "client_id": self._client_id, "access_token": tokens.access_token},
            )
            claims.validate(int(self._now()), LEEWAY_S)
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise _untrusted(f"ID token: {error}") from None
        if not isinstance(claims["sub"], str) or not 0 < len(claims["sub"]) <= 255:
            raise _untrusted("ID token: sub")
        return dict(claims)

    async def _userinfo(self, provider: Discovery, access_token: str, subject: str) -> dict[str, object]:
        assert provider.userinfo_endpoint is not None
        try:
            answer = await self._get(provider.userinfo_endpoint, access_token)
            found = msgspec.json.decode(answer, type=dict[str, object])
        except msgspec.DecodeError as error:
            raise _untrusted(f"userinfo: {error}") from None
        if found.get("sub") != subject:
            raise _untrusted("userinfo: sub")
        return found

    def _person(self, claims: Mapping[str, object]) -> Person:
        groups = claims.get(self._groups_claim)
        listed = groups if isinstance(groups, list) else [groups]
        return Person(
            user=str(claims["sub"]),
            email=_text(claims.get("email")) if claims.get("email_verified") is True else None,
            name=_text(claims.get("name")) or _text(claims.get("preferred_username")),
            groups=frozenset(group for group in listed[:_MAX_GROUPS] if isinstance(group, str)),
        )


def _untrusted(reason: str) -> SignInError:
    return SignInError("What the identity provider answered cannot be trusted, so nobody was signed in.", reason)


def _text(value: object) -> str | None:
    return value[:_MAX_NAME_CHARS] if isinstance(value, str) and value else None


def _why(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Refusal).error[:80]
    except msgspec.DecodeError:
        return "no reason"


def _with_query(url: str, parameters: Mapping[str, str]) -> str:
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(parameters)}"
