"""People on the real app: from the provider to a session, what it may do, and how it ends."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from deployments.teams.exchanges import Exchanges
from deployments.teams.records import Member
from deployments.teams.sign_in import Attempt
from deployments.teams.store import Store
from model.text.tokenizer import Tokenizer
from tests.support.identity_provider import IdentityProvider, identity_provider
from tests.support.log_lines import captured
from tests.support.signed_in_app import Office, office
from tests.support.waiting import PATIENCE_S

BODY = {"prompt": "x", "max_tokens": 2}
COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with identity_provider() as provider:
        provider.add("ada", "Ada Lovelace", "admins")
        provider.add("bob", "Bob", "searchers")
        provider.add("cas", "Cas", "searchers", "leads")
        provider.add("dot", "Dot")
        yield provider


@pytest.fixture
def running(provider: IdentityProvider, tokenizer: Tokenizer, tmp_path: Path) -> Iterator[Office]:
    provider.away = False
    with office(provider, tokenizer, tmp_path) as running:
        yield running


@pytest.fixture
async def store(running: Office) -> AsyncIterator[Store]:
    """The same database, from here."""
    store = await running.store()
    await store.create_team("local", "search")
    await store.create_team("local", "ads")
    yield store
    await store.close()


@pytest.fixture
async def browser(running: Office) -> AsyncIterator[httpx.AsyncClient]:
    """Sends what a page of the server itself sends."""
    async with httpx.AsyncClient(base_url=running.url, headers={"origin": running.url}) as browser:
        yield browser


async def test_nobody_gets_in_unasked(browser: httpx.AsyncClient) -> None:
    assert (await browser.post(COMPLETIONS, json=BODY)).status_code == 401
    assert (await browser.get("/login/session")).json() == {"sign_on": True, "user": None}


async def test_a_member_signs_in_and_completes(running: Office, store: Store, browser: httpx.AsyncClient) -> None:
    back = await running.sign_in(browser, "bob")
    assert (back.status_code, back.headers["location"]) == (303, f"{running.url}/teams")
    assert back.headers["cache-control"] == "no-store"
    user = (await browser.get("/login/session")).json()["user"]
    assert user == {"id": "bob", "email": "bob@example.com", "name": "Bob"}
    assert (await browser.post(COMPLETIONS, json=BODY)).status_code == 200
    search = await store.team("search")
    assert [(m.team_id, m.role, m.name) for m in await store.memberships("bob")] == [(search.id, "member", "Bob")]
    assert running.backend.requests[0].prompts


@pytest.mark.usefixtures("store")
async def test_people_of_one_team_have_no_editor_session_in_common(running: Office) -> None:
    """Whatever their editors call it."""
    headers = {"origin": running.url, "x-session-id": "window-1"}
    for user in ("bob", "cas", "bob"):
        async with httpx.AsyncClient(base_url=running.url, headers=headers) as browser:
            await running.sign_in(browser, user)
            assert (await browser.post(COMPLETIONS, json=BODY)).status_code == 200
    bob, cas, again = [request.session and request.session.key for request in running.backend.requests]
    assert None not in (bob, cas)
    assert bob == again != cas


async def test_the_cookie(running: Office, store: Store, browser: httpx.AsyncClient) -> None:
    back = await running.sign_in(browser, "bob")
    session, attempt = back.headers.get_list("set-cookie")
    assert session.startswith("starcoder-session=")
    for attribute in ("; Path=/", "; HttpOnly", "; SameSite=Lax", "; Max-Age=3600"):
        assert attribute in session
    assert attempt.startswith("starcoder-sign-in=;")
    assert "Max-Age=0" in attempt
    secret = browser.cookies["starcoder-session"]
    assert len(secret.partition(".")[0]) == 43  # 256 bits
    database = Path(running.settings.database.partition("///")[2])
    stored = b"".join(file.read_bytes() for file in database.parent.glob(f"{database.name}*"))
    assert b"bob" in stored
    assert secret.partition(".")[0].encode() not in stored


async def test_the_secret_is_in_no_log(running: Office, store: Store, browser: httpx.AsyncClient) -> None:
    with captured("debug") as lines:
        await running.sign_in(browser, "bob")
        await browser.post(COMPLETIONS, json=BODY)
        await browser.get("/login/callback", params={"state": "x"})
    secret = browser.cookies["starcoder-session"]
    assert [line["path"] for line in lines.requests()].count("/login/callback") == 2
    assert lines.all("sign_on.failed")[0]["message"] == "state"
    assert secret.partition(".")[0] not in lines.text


async def test_who_is_administrator_and_who_owns_by_their_groups(running: Office, store: Store) -> None:
    for sub, wanted in (("ada", []), ("cas", ["owner"]), ("dot", [])):
        async with httpx.AsyncClient(base_url=running.url) as browser:
            await running.sign_in(browser, sub)
            assert [member.role for member in await store.memberships(sub)] == wanted
            completed = await browser.post(COMPLETIONS, json=BODY, headers={"origin": running.url})
            assert completed.status_code == (200 if wanted else 403), completed.text


async def test_groups_that_change_change_the_team_at_the_next_sign_in(
    running: Office, store: Store, provider: IdentityProvider, browser: httpx.AsyncClient
) -> None:
    ads = await store.team("ads")
    await store.set_member("local", Member(user="eve", team_id=ads.id, role="viewer"))
    eve = provider.add("eve", "Eve", "leads")
    await running.sign_in(browser, "eve")
    assert {(m.team_id == ads.id, m.role, m.name) for m in await store.memberships("eve")} == {
        (True, "viewer", "Eve"),
        (False, "owner", "Eve"),
    }
    keys = f"/v1/organization/projects/{(await store.team('search')).id}/api_keys"
    made = await browser.post(keys, json={"name": "laptop"})
    assert made.status_code == 200, made.text
    eve.groups = []
    await running.sign_in(browser, "eve")
    assert (await store.key(made.json()["id"])).revoked_at is not None
    assert [(m.team_id, m.role) for m in await store.memberships("eve")] == [(ads.id, "viewer")]


async def test_on_whose_account(running: Office, store: Store, browser: httpx.AsyncClient) -> None:
    ads = await store.team("ads")
    await store.set_member("local", Member(user="bob", team_id=ads.id, role="viewer"))
    await running.sign_in(browser, "bob")
    unclear = await browser.post(COMPLETIONS, json=BODY)
    assert (unclear.status_code, unclear.json()["error"]["code"]) == (400, "team_required")
    for team, status in (("search", 200), ((await store.team("search")).id, 200), ("ads", 403), ("nobodys", 403)):
        answer = await browser.post(COMPLETIONS, json=BODY, headers={"openai-project": team})
        assert answer.status_code == status, (team, answer.text)


async def test_pages_of_others_do_nothing_with_somebodys_session(
    running: Office, store: Store, browser: httpx.AsyncClient
) -> None:
    await running.sign_in(browser, "bob")
    del browser.headers["origin"]
    refused: list[dict[str, str]] = [
        {},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "null"},
        {"origin": "https://elsewhere.example.com"},
        {"origin": "https://elsewhere.example.com", "sec-fetch-site": "same-origin"},
    ]
    for headers in refused:
        for path in (COMPLETIONS, "/logout"):
            answer = await browser.post(path, json=BODY, headers=headers)
            assert answer.status_code == 403, (path, headers)
    for headers in ({"sec-fetch-site": "same-origin"}, {"origin": running.url}):
        assert (await browser.post(COMPLETIONS, json=BODY, headers=headers)).status_code == 200


async def test_signing_out_ends_it_everywhere(
    running: Office, store: Store, browser: httpx.AsyncClient, provider: IdentityProvider
) -> None:
    await running.sign_in(browser, "bob")
    assert (await browser.post(COMPLETIONS, json=BODY)).status_code == 200
    secret = browser.cookies["starcoder-session"]
    left = await browser.post("/logout")
    assert left.json()["location"].startswith(f"{provider.issuer}/goodbye?")
    assert "starcoder-session" not in browser.cookies
    stolen = {"cookie": f"starcoder-session={secret}"}
    assert (await browser.post(COMPLETIONS, json=BODY, headers=stolen)).status_code == 401


async def test_an_administrator_who_has_to_go_goes_at_once(running: Office, store: Store) -> None:
    """Even one who is in no team."""
    async with httpx.AsyncClient(base_url=running.url, headers={"origin": running.url}) as ada:
        await running.sign_in(ada, "ada")
        assert (await ada.get("/v1/organization/audit_logs")).status_code == 200
        assert (await ada.delete("/v1/organization/users/nobody")).status_code == 404
        assert (await ada.delete("/v1/organization/users/ada")).status_code == 200

        async def out() -> bool:
            await asyncio.sleep(0.02)
            return (await ada.get("/v1/organization/audit_logs")).status_code == 401

        async with asyncio.timeout(PATIENCE_S):
            while not await out():
                pass


async def test_where_one_goes_from_here_is_ours(running: Office, store: Store, browser: httpx.AsyncClient) -> None:
    for asked, target in (("/", "/"), ("/teams", "/teams"), ("//evil.example.com", "/teams"), ("https://x", "/teams")):
        back = await running.sign_in(browser, "bob", asked)
        assert back.headers["location"] == running.url + target


async def test_the_provider_is_away_those_signed_in_go_on(
    running: Office, store: Store, browser: httpx.AsyncClient, provider: IdentityProvider
) -> None:
    await running.sign_in(browser, "bob")
    provider.away = True
    running.sign_on.provider._known = None  # as if an hour had passed
    async with httpx.AsyncClient(base_url=running.url) as other:
        refused = await other.get("/login")
    assert refused.status_code == 503
    assert "The identity provider does not answer" in refused.text
    assert "default-src 'none'" in refused.headers["content-security-policy"]
    assert (await browser.post(COMPLETIONS, json=BODY)).status_code == 200
    assert (await browser.post("/logout")).json() == {"location": f"{running.url}/teams"}


async def test_the_database_is_away_those_signed_in_go_on(
    running: Office, store: Store, browser: httpx.AsyncClient
) -> None:
    await running.sign_in(browser, "bob")
    assert (await browser.post(COMPLETIONS, json=BODY)).status_code == 200
    running.accounts.away = True
    for _ in range(5):
        assert (await browser.post(COMPLETIONS, json=BODY)).status_code == 200
    assert (await browser.post("/logout")).status_code == 503
    async with httpx.AsyncClient(base_url=running.url) as other:
        failed = await running.sign_in(other, "bob")
        assert failed.status_code == 400
        assert "the database does not answer" in failed.text
    running.accounts.away = False


async def test_cookies_that_were_made_up_ask_no_database(running: Office, browser: httpx.AsyncClient) -> None:
    await browser.get("/health")
    before = running.accounts.asked
    for made_up in ("x", "x.y", "a" * 43 + "." + "0" * 32, "é.ü", "x" * 5000, '"'):
        answer = await browser.get("/v1/models", headers={b"cookie": f"starcoder-session={made_up}".encode()})
        assert answer.status_code == 401
    assert running.accounts.asked == before


async def test_what_a_browser_kept_is_only_believed_if_this_server_made_it(
    running: Office, store: Store, browser: httpx.AsyncClient, provider: IdentityProvider
) -> None:
    forged = Attempt(state="s", nonce="", verifier="v", target="/")
    unsealed = base64.urlsafe_b64encode(msgspec.json.encode(forged)).decode()
    before = len(provider.asked)
    for kept in ("", "x", "e30=", "bm90IGpzb24=", unsealed, f"{unsealed}.{'0' * 32}"):
        answer = await browser.get(
            "/login/callback", params={"code": "c", "state": "s"}, headers={"cookie": f"starcoder-sign-in={kept}"}
        )
        assert answer.status_code == 400
        assert "not begun in this browser" in answer.text
    assert "starcoder-session" not in browser.cookies
    assert len(provider.asked) == before


async def test_too_many_who_sign_in_at_once_are_asked_to_try_again(
    running: Office, store: Store, browser: httpx.AsyncClient
) -> None:
    running.sign_on.provider._exchanges = Exchanges(time.monotonic, most=0)
    answer = await running.sign_in(browser, "bob")
    assert (answer.status_code, "Try again" in answer.text) == (503, True)


async def test_who_signs_in_is_told_in_the_logs(running: Office, store: Store, browser: httpx.AsyncClient) -> None:
    with captured("info") as lines:
        await running.sign_in(browser, "ada")
        await running.sign_in(browser, "bob")
    told = [(line["user"], line["admin"]) for line in lines.all("sign_on.signed_in")]
    assert told == [("ada", True), ("bob", False)]
    rows = [(row.actor, row.action, row.detail["user"]) for row in await store.audit(action="member.added")]
    assert rows == [("provider", "member.added", "bob")]


async def test_a_key_comes_before_a_session(running: Office, store: Store, browser: httpx.AsyncClient) -> None:
    await running.sign_in(browser, "bob")
    answer = await browser.post(COMPLETIONS, json=BODY, headers={"authorization": "Bearer sk-sc-wrong"})
    assert answer.status_code == 401
