"""Signing in with a real provider over HTTP: what is checked of its answers, and what becomes of one that is away."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
from joserfc.jwk import OctKey, RSAKey

from deployments.command.ports import free_port
from deployments.teams import oidc
from deployments.teams.oidc import DISCOVERY_S, LEEWAY_S, RETRY_S, Provider
from deployments.teams.provider_keys import MISSES_S
from deployments.teams.sign_in import Attempt, Person
from deployments.teams.sign_in_errors import ProviderAwayError, SignInError
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, IdentityProvider, identity_provider

BACK = "http://127.0.0.1:1/login/callback"


class Clock:
    """Both clocks. ahead: of the true one, in seconds."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture(scope="module")
def running() -> Iterator[IdentityProvider]:
    with identity_provider() as provider:
        yield provider


@pytest.fixture
def idp(running: IdentityProvider) -> IdentityProvider:
    """One as if it had just been started."""
    fresh = IdentityProvider(issuer=running.issuer, keys=running.keys)
    vars(running).update(vars(fresh))
    running.add("ada", "Ada Lovelace", "devs", "admins")
    return running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(idp: IdentityProvider, clock: Clock) -> AsyncIterator[Provider]:
    made = Provider(idp.issuer, CLIENT_ID, CLIENT_SECRET, BACK, now=clock.now, clock=clock.monotonic)
    yield made
    await made.close()


async def visit(client: Provider, sub: str = "ada") -> tuple[Attempt, dict[str, str]]:
    """What a browser brings back from the provider."""
    url, attempt = await client.begin("/teams")
    async with httpx.AsyncClient() as browser:
        answer = await browser.get(url, params={**dict(parse_qs_flat(url)), "login_as": sub})
    assert answer.status_code == 307
    location = answer.headers["location"]
    assert location.startswith(f"{BACK}?")
    return attempt, dict(parse_qs_flat(location))


def parse_qs_flat(url: str) -> list[tuple[str, str]]:
    return [(name, values[0]) for name, values in parse_qs(urlsplit(url).query).items()]


async def sign_in(client: Provider, sub: str = "ada") -> Person:
    return await client.finish(*await visit(client, sub))


async def test_who_signs_in(client: Provider) -> None:
    person = await sign_in(client)
    assert person == Person(
        user="ada", email="ada@example.com", name="Ada Lovelace", groups=frozenset({"devs", "admins"})
    )


async def test_every_attempt_has_its_own_secrets(client: Provider) -> None:
    attempts = [(await client.begin("/"))[1] for _ in range(20)]
    for secrets in ({a.state for a in attempts}, {a.nonce for a in attempts}, {a.verifier for a in attempts}):
        assert len(secrets) == 20
        assert all(len(secret) >= 43 for secret in secrets)
    assert {len(secret) for attempt in attempts for secret in (attempt.state, attempt.nonce)} == {43}, "256 bits"
    assert {len(attempt.verifier) for attempt in attempts} == {64}, "of the 43 to 128 characters of RFC 7636"


async def test_a_question_goes_behind_what_an_address_asks_already() -> None:
    """As with providers that tell their tenants apart so."""
    assert oidc._with_query("https://id.example.com/to", {"a": "b c"}) == "https://id.example.com/to?a=b+c"
    assert oidc._with_query("https://id.example.com/to?p=x", {"a": "b"}) == "https://id.example.com/to?p=x&a=b"


async def test_userinfo_tells_what_the_token_does_not(client: Provider, idp: IdentityProvider) -> None:
    idp.in_token = False
    assert (await sign_in(client)).groups == {"devs", "admins"}
    idp.userinfo_sub = "somebody else"
    with pytest.raises(SignInError) as caught:
        await sign_in(client)
    assert caught.value.reason == "userinfo: sub"


@pytest.mark.parametrize("verified", [False, None])
async def test_an_email_that_is_not_verified_is_nobodys(
    client: Provider, idp: IdentityProvider, verified: bool | None
) -> None:
    idp.add("eve", "Eve", email_verified=verified)
    person = await sign_in(client, "eve")
    assert (person.user, person.email, person.name) == ("eve", None, "Eve")


LONG_AGO, SOME_DAY = 1_000_000_000, 4_000_000_000


@pytest.mark.parametrize(
    "lies",
    [
        {"iss": "https://elsewhere.example.com"},
        {"aud": "another-client"},
        {"aud": ["another-client", CLIENT_ID]},  # without azp it is not clear for whom
        {"aud": "another-client", "azp": CLIENT_ID},
        {"aud": [CLIENT_ID, "another-client"], "azp": "another-client"},
        {"nonce": "of another sign-in"},
        {"nonce": None},
        {"exp": LONG_AGO},
        {"exp": None},
        {"nbf": SOME_DAY},
        {"iat": SOME_DAY},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"at_hash": "of-another-token"},
    ],
    ids=lambda lies: "-".join(f"{name}={value}"[:20] for name, value in lies.items()),
)
async def test_a_token_with_a_wrong_claim_is_refused(
    client: Provider, idp: IdentityProvider, lies: dict[str, object]
) -> None:
    idp.lies = lies
    with pytest.raises(SignInError) as caught:
        await sign_in(client)
    assert caught.value.message == "What the identity provider answered cannot be trusted, so nobody was signed in."
    assert not isinstance(caught.value, ProviderAwayError)


@pytest.mark.parametrize(
    ("claim", "seconds"), [("exp", -LEEWAY_S - 5), ("nbf", LEEWAY_S + 600), ("iat", LEEWAY_S + 600)]
)
async def test_clocks_may_not_differ_much(client: Provider, idp: IdentityProvider, claim: str, seconds: int) -> None:
    idp.lies = {claim: int(time.time()) + seconds}
    with pytest.raises(SignInError, match="cannot be trusted"):
        await sign_in(client)


async def test_clocks_may_differ_a_little(client: Provider, idp: IdentityProvider) -> None:
    idp.lies = {"exp": int(time.time()) - LEEWAY_S // 2, "iat": int(time.time()) + LEEWAY_S // 2}
    assert (await sign_in(client)).user == "ada"


async def test_only_the_providers_own_keys_sign(client: Provider, idp: IdentityProvider) -> None:
    idp.signed_by = RSAKey.generate_key(2048)
    with pytest.raises(SignInError, match="cannot be trusted"):
        await sign_in(client)
    # A public key is no secret: what is signed with its text as one is signed by anybody.
    idp.signed_by = OctKey.import_key(str(idp.keys[0].as_dict(private=False)["n"]))
    with pytest.raises(SignInError, match="cannot be trusted"):
        await sign_in(client)


async def test_keys_that_change_are_asked_for_again_but_not_by_everybody(
    client: Provider, idp: IdentityProvider, clock: Clock
) -> None:
    for _ in range(3):
        await sign_in(client)
    assert idp.asked.count("/jwks") == 1
    idp.rotate()
    clock.ahead += MISSES_S
    await sign_in(client)
    assert idp.asked.count("/jwks") == 2
    idp.rotate()
    for _ in range(3):  # at once
        with pytest.raises(SignInError, match="cannot be trusted"):
            await sign_in(client)
    assert idp.asked.count("/jwks") == 2
    clock.ahead += MISSES_S
    assert (await sign_in(client)).user == "ada"


async def test_an_answer_belongs_to_the_browser_that_asked(client: Provider) -> None:
    attempt, answer = await visit(client)
    _, other = await client.begin("/teams")
    for kept, came in ((None, answer), (other, answer), (attempt, {**answer, "state": ""})):
        with pytest.raises(SignInError, match="not begun in this browser"):
            await client.finish(kept, came)
    stolen = Attempt(state=attempt.state, nonce=attempt.nonce, verifier="x" * 64, target="/")
    with pytest.raises(SignInError) as caught:
        await client.finish(stolen, answer)  # PKCE
    assert caught.value.reason == "token: invalid_grant"


async def test_a_code_works_once(client: Provider) -> None:
    attempt, answer = await visit(client)
    assert (await client.finish(attempt, answer)).user == "ada"
    again = msgspec.structs.replace(attempt, state="another")
    with pytest.raises(SignInError, match="refused"):
        await client.finish(again, {**answer, "state": "another"})


async def test_an_attempt_brings_one_code_to_the_provider(client: Provider, idp: IdentityProvider) -> None:
    attempt, answer = await visit(client)
    with pytest.raises(SignInError, match="refused"):
        await client.finish(attempt, {**answer, "code": "guess"})
    for _ in range(5):
        with pytest.raises(SignInError, match="used already"):
            await client.finish(attempt, answer)
    assert idp.asked.count("/token") == 1


async def test_the_answers_issuer(client: Provider, idp: IdentityProvider) -> None:
    idp.says_iss = idp.issuer
    assert (await sign_in(client)).user == "ada"
    attempt, answer = await visit(client)
    for wrong in ({**answer, "iss": "https://elsewhere.example.com"}, {k: v for k, v in answer.items() if k != "iss"}):
        with pytest.raises(SignInError, match="cannot be trusted"):
            await client.finish(attempt, wrong)


async def test_the_provider_says_no(client: Provider, idp: IdentityProvider) -> None:
    idp.refuses = "access_denied"
    with pytest.raises(SignInError, match="refused to sign you in") as caught:
        await sign_in(client)
    assert caught.value.reason == "provider: access_denied"


async def test_a_wrong_secret_is_told_in_the_log(idp: IdentityProvider) -> None:
    client = Provider(idp.issuer, CLIENT_ID, "wrong", BACK)
    with pytest.raises(SignInError) as caught:
        await sign_in(client)
    assert caught.value.reason == "token: invalid_client"
    await client.close()


async def test_a_provider_that_is_away_and_comes_back(client: Provider, idp: IdentityProvider, clock: Clock) -> None:
    idp.away = True
    for _ in range(5):
        with pytest.raises(ProviderAwayError, match="does not answer"):
            await client.begin("/")
    assert len(idp.asked) == 1
    idp.away = False
    clock.ahead += RETRY_S
    attempt, answer = await visit(client)
    idp.away = True
    with pytest.raises(ProviderAwayError):
        await client.finish(attempt, answer)


async def test_what_it_says_of_itself_is_believed_for_an_hour(idp: IdentityProvider) -> None:
    times = [0.0]
    client = Provider(idp.issuer, CLIENT_ID, None, BACK, clock=lambda: times[0])

    async def asked_at(now: float) -> int:
        times[0] = now
        with contextlib.suppress(ProviderAwayError):
            await client.begin("/")
        return len(idp.asked)

    assert [await asked_at(now) for now in (5.0, 5.0, DISCOVERY_S + 4.5)] == [1, 1, 1]
    assert await asked_at(DISCOVERY_S + 5.0) == 2
    idp.away = True
    gone = 2 * DISCOVERY_S + 5.0
    assert [await asked_at(gone + later) for later in (0.0, 1.0, RETRY_S - 0.5)] == [3, 3, 3]
    idp.away = False
    assert [await asked_at(gone + RETRY_S + later) for later in (0.0, 0.5, DISCOVERY_S - 0.5)] == [4, 4, 4]
    await client.close()


async def test_nothing_listens() -> None:
    client = Provider(f"http://127.0.0.1:{free_port()}", CLIENT_ID, None, BACK)
    with pytest.raises(ProviderAwayError) as caught:
        await client.begin("/")
    assert "ConnectError" in caught.value.reason
    await client.close()


async def test_a_provider_of_another_name(idp: IdentityProvider) -> None:
    client = Provider(f"{idp.issuer}/", CLIENT_ID, None, BACK)
    with pytest.raises(ProviderAwayError) as caught:
        await client.begin("/")
    assert "calls itself" in caught.value.reason
    await client.close()


async def test_leaving_the_provider_too(client: Provider, idp: IdentityProvider) -> None:
    url = await client.goodbye("http://127.0.0.1:1/teams")
    assert url is not None
    assert dict(parse_qs_flat(url))["post_logout_redirect_uri"] == "http://127.0.0.1:1/teams"
    without = Provider(idp.issuer, CLIENT_ID, None, BACK)
    idp.ends_sessions = False
    assert await without.goodbye("http://127.0.0.1:1/teams") is None
    await without.close()
