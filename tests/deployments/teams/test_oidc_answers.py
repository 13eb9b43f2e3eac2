"""What becomes of each thing that an identity provider may answer, or leave out: one that is made up, without HTTP."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.jwk import ECKey

from deployments.teams.oidc import TIMEOUT_S, Provider
from deployments.teams.sign_in import Person
from deployments.teams.sign_in_errors import ProviderAwayError, SignInError

ISSUER = "https://id.example.com/realm/"
BACK = "https://code.example.com/login/callback"
KEY = ECKey.generate_key("P-256", {"kid": "k", "use": "sig"})


class MadeUp:
    """told: what it says of itself. claims: of the next ID token, None: left out. answers: in place of its own, by
    path; one that is an error is raised. asked: what came, by path."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}authorize?tenant=7",
            **{f"{name}_endpoint": ISSUER + name for name in ("token", "userinfo", "end_session")},
            "jwks_uri": f"{ISSUER}jwks",
        }
        self.claims: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {"sub": "ada", "name": "of userinfo", "email": "u@example.com"}
        self.tokens: dict[str, Any] = {"access_token": "t"}
        self.answers: dict[str, httpx.Response | Exception] = {}
        self.asked: dict[str, httpx.Request] = {}
        self.nonce = ""

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/realm/")
        self.asked[path] = request
        if path in self.answers:
            answer = self.answers[path]
            if isinstance(answer, Exception):
                raise answer
            return answer
        return httpx.Response(200, json=self._document(path))

    def _document(self, path: str) -> object:
        if path == "token":
            now = int(time.time())
            claims = {"iss": ISSUER, "aud": "us", "sub": "ada", "iat": now, "exp": now + 300, "nonce": self.nonce}
            claims = {name: value for name, value in (claims | self.claims).items() if value is not None}
            return {"id_token": jwt.encode({"alg": "ES256", "kid": "k"}, claims, KEY), **self.tokens}
        known = {
            ".well-known/openid-configuration": self.told,
            "userinfo": self.userinfo,
            "jwks": {"keys": [KEY.as_dict(private=False)]},
        }
        return known[path]

    def form(self) -> dict[str, str]:
        """Of what was asked for tokens."""
        return dict(parse_qsl(self.asked["token"].content.decode(), keep_blank_values=True))


@pytest.fixture
def there() -> MadeUp:
    return MadeUp()


async def provider(there: MadeUp, secret: str | None = "s/1", **more: Any) -> Provider:
    made = Provider(ISSUER, "us", secret, BACK, **more)
    assert made._http.timeout == httpx.Timeout(TIMEOUT_S)
    await made._http.aclose()
    made._http = httpx.AsyncClient(transport=httpx.MockTransport(there.answer))
    return made


@pytest.fixture
async def client(there: MadeUp) -> AsyncIterator[Provider]:
    made = await provider(there)
    yield made
    await made.close()
    assert made._http.is_closed


async def sign_in(client: Provider, there: MadeUp, **answer: str) -> Person:
    _, attempt = await client.begin("/teams")
    there.nonce = attempt.nonce
    return await client.finish(attempt, {"code": "c", "state": attempt.state, **answer})


async def why(client: Provider, there: MadeUp, **answer: str) -> tuple[type[SignInError], str]:
    with pytest.raises(SignInError) as refused:
        await sign_in(client, there, **answer)
    return type(refused.value), refused.value.reason


async def test_what_a_browser_is_sent_away_with(client: Provider, there: MadeUp) -> None:
    url, attempt = await client.begin("/teams?x=1")
    assert url.startswith(f"{ISSUER}authorize?tenant=7&")
    assert dict(parse_qsl(urlsplit(url).query)) == {
        "tenant": "7",
        "response_type": "code",
        "client_id": "us",
        "redirect_uri": BACK,
        "scope": "openid email profile",
        "state": attempt.state,
        "nonce": attempt.nonce,
        "code_challenge": create_s256_code_challenge(attempt.verifier),
        "code_challenge_method": "S256",
    }
    assert attempt.target == "/teams?x=1"
    other = await provider(there, scopes="openid groups")
    assert "&scope=openid+groups&" in (await other.begin("/"))[0]
    await other.close()


async def test_what_the_provider_is_asked_with(client: Provider, there: MadeUp) -> None:
    _, attempt = await client.begin("/")
    there.nonce = attempt.nonce
    await client.finish(attempt, {"state": attempt.state})
    assert there.form() == {
        "grant_type": "authorization_code",
        "code": "",
        "redirect_uri": BACK,
        "client_id": "us",
        "code_verifier": attempt.verifier,
    }
    basic = there.asked["token"].headers["authorization"].removeprefix("Basic ")
    assert base64.b64decode(basic) == b"us:s%2F1"
    assert there.asked["userinfo"].headers["authorization"] == "Bearer t"
    assert "authorization" not in there.asked["jwks"].headers
    assert {there.asked[path].headers["accept"] for path in ("jwks", "userinfo")} == {"application/json"}


@pytest.mark.parametrize(
    ("secret", "methods", "in_form"),
    [
        ("s/1", ["client_secret_post"], "s/1"),
        (None, ["client_secret_post"], None),
        (None, ["client_secret_basic"], None),
    ],
)
async def test_a_secret_goes_where_the_provider_takes_it(
    there: MadeUp, secret: str | None, methods: list[str], in_form: str | None
) -> None:
    there.told["token_endpoint_auth_methods_supported"] = methods
    client = await provider(there, secret)
    await sign_in(client, there)
    assert there.form().get("client_secret") == in_form
    assert "authorization" not in there.asked["token"].headers
    await client.close()


@pytest.mark.parametrize("claims", [{"email": "t@example.com"}, {"groups": ["a"]}, {}])
async def test_userinfo_is_asked_for_what_the_token_leaves_out_and_the_token_is_believed_first(
    client: Provider, there: MadeUp, claims: dict[str, Any]
) -> None:
    there.claims = {"name": "of the token", "email_verified": True, **claims}
    there.userinfo["groups"] = ["b"]
    person = await sign_in(client, there)
    groups = frozenset(claims.get("groups", ["b"]))
    assert (person.email, person.name, person.groups) == (claims.get("email", "u@example.com"), "of the token", groups)


async def test_userinfo_is_left_alone_where_there_is_nothing_to_ask(there: MadeUp) -> None:
    there.claims = {"email": "t@example.com", "roles": "dev"}
    client = await provider(there, groups_claim="roles")
    assert (await sign_in(client, there)).groups == {"dev"}
    there.claims, there.tokens = {}, {}
    assert (await sign_in(client, there)).name is None
    await client.close()
    there.tokens = {"access_token": "t"}
    del there.told["userinfo_endpoint"]
    client = await provider(there)
    assert (await sign_in(client, there)).name is None
    await client.close()
    assert "userinfo" not in there.asked


@pytest.mark.parametrize(
    ("claims", "email", "name", "groups"),
    [
        ({"email_verified": True}, None, None, set()),
        ({"email": "a@example.com", "email_verified": "true"}, None, None, set()),
        ({"email": 7, "email_verified": True, "name": ""}, None, None, set()),
        ({"name": "", "preferred_username": "al"}, None, "al", set()),
        ({"name": "Ada", "preferred_username": "al"}, None, "Ada", set()),
        ({"name": ["Ada"], "preferred_username": 3}, None, None, set()),
        ({"name": "x" * 201, "email": "y" * 201, "email_verified": True}, "y" * 200, "x" * 200, set()),
        ({"groups": "devs"}, None, None, {"devs"}),
        ({"groups": ["devs", 3, None, "ops"]}, None, None, {"devs", "ops"}),
        ({"groups": {"devs": True}}, None, None, set()),
        ({"groups": [f"g{at}" for at in range(2001)]}, None, None, {f"g{at}" for at in range(2000)}),
    ],
)
async def test_who_somebody_is(
    client: Provider, there: MadeUp, claims: dict[str, Any], email: str | None, name: str | None, groups: set[str]
) -> None:
    there.claims, there.tokens = claims, {}
    assert await sign_in(client, there) == Person(user="ada", email=email, name=name, groups=frozenset(groups))


async def test_a_token_may_say_which_access_token_it_came_with(client: Provider, there: MadeUp) -> None:
    """OpenID Connect Core, 3.1.3.6: half of its digest."""
    half = hashlib.sha256(b"t").digest()[:16]
    there.claims = {"at_hash": base64.urlsafe_b64encode(half).decode().rstrip("=")}
    assert (await sign_in(client, there)).user == "ada"
    there.tokens = {"access_token": "another"}
    kind, reason = await why(client, there)
    assert (kind, reason.startswith("ID token: ")) == (SignInError, True)


async def test_a_subject_has_255_characters_at_the_most(client: Provider, there: MadeUp) -> None:
    there.tokens = {}
    there.claims = {"sub": "x" * 255}
    assert (await sign_in(client, there)).user == "x" * 255
    there.claims = {"sub": "x" * 256}
    assert await why(client, there) == (SignInError, "ID token: sub")


@pytest.mark.parametrize("claims", [{"iss": None}, {"aud": None}, {"aud": "others"}, {"iss": ISSUER.rstrip("/")}])
async def test_a_token_says_who_made_it_and_for_whom(client: Provider, there: MadeUp, claims: dict[str, Any]) -> None:
    there.claims = claims
    kind, reason = await why(client, there)
    assert (kind, reason.startswith("ID token: ")) == (SignInError, True)


NOT_JSON = httpx.Response(200, text="<html>")


@pytest.mark.parametrize(
    ("path", "answer", "kind", "reason"),
    [
        (".well-known/openid-configuration", NOT_JSON, ProviderAwayError, "discovery: "),
        (
            ".well-known/openid-configuration",
            httpx.Response(404),
            ProviderAwayError,
            "openid-configuration: status 404",
        ),
        ("jwks", httpx.ReadTimeout("slow"), ProviderAwayError, "/realm/jwks: ReadTimeout"),
        ("jwks", httpx.Response(204), ProviderAwayError, "/realm/jwks: status 204"),
        ("jwks", NOT_JSON, SignInError, "ID token: "),
        ("userinfo", NOT_JSON, SignInError, "userinfo: "),
        ("userinfo", httpx.Response(200, json={}), SignInError, "userinfo: sub"),
        ("userinfo", httpx.Response(403), ProviderAwayError, "/realm/userinfo: status 403"),
        ("token", httpx.ConnectError("none"), ProviderAwayError, "token: ConnectError"),
        ("token", httpx.Response(500), ProviderAwayError, "token: status 500"),
        ("token", httpx.Response(499), SignInError, "token: no reason"),
        ("token", httpx.Response(201, json={"error": "x"}), SignInError, "token: x"),
        ("token", httpx.Response(400, json={"error": "e" * 81}), SignInError, f"token: {'e' * 80}"),
        ("token", httpx.Response(400, json={}), SignInError, "token: "),
        ("token", httpx.Response(200, json={"access_token": "t"}), SignInError, "token answer: "),
        ("token", httpx.Response(200, json={"id_token": "no.such.token"}), SignInError, "ID token: "),
    ],
)
async def test_an_answer_that_is_of_no_use_is_told_from_a_provider_that_is_away(
    client: Provider, there: MadeUp, path: str, answer: httpx.Response | Exception, kind: type, reason: str
) -> None:
    there.answers[path] = answer
    found, told = await why(client, there)
    assert found is kind
    assert told.endswith(reason) or (reason.endswith(": ") and told.startswith(reason))


@pytest.mark.parametrize(
    "endpoint", ["authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri", "issuer"]
)
async def test_of_a_provider_over_tls_no_endpoint_is_without(client: Provider, there: MadeUp, endpoint: str) -> None:
    there.told[endpoint] = "http" + there.told[endpoint].removeprefix("https")
    kind, reason = await why(client, there)
    told = "it calls itself 'http:" if endpoint == "issuer" else "an endpoint is not https"
    assert (kind, reason.startswith(told)) == (ProviderAwayError, True)


async def test_another_name_is_told_in_short(client: Provider, there: MadeUp) -> None:
    there.told["issuer"] = "x" * 300
    assert (await why(client, there))[1] == f"it calls itself {'x' * 200!r}, not {ISSUER!r}"


async def test_a_refusal_is_told_in_short(client: Provider, there: MadeUp) -> None:
    assert await why(client, there, error="e" * 81) == (SignInError, f"provider: {'e' * 80}")
    assert "token" not in there.asked


async def test_whoever_answers_says_its_own_name_or_none(client: Provider, there: MadeUp) -> None:
    assert (await sign_in(client, there, iss=ISSUER)).user == "ada"
    assert await why(client, there, iss="") == (SignInError, "iss of the answer")
    there.told["authorization_response_iss_parameter_supported"] = True
    strict = await provider(there)
    assert (await sign_in(strict, there, iss=ISSUER)).user == "ada"
    assert await why(strict, there) == (SignInError, "iss of the answer")
    await strict.close()


async def test_leaving_comes_back(client: Provider, there: MadeUp) -> None:
    url = await client.goodbye("https://code.example.com/teams")
    assert url is not None
    assert dict(parse_qsl(urlsplit(url).query)) == {
        "client_id": "us",
        "post_logout_redirect_uri": "https://code.example.com/teams",
    }
    assert url.startswith(f"{ISSUER}end_session?")
