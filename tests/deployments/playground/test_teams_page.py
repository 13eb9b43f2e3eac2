"""The page of teams in a real browser, over the real app, with a provider, a database and a ledger."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.async_api import BrowserContext, Page, expect

from deployments.teams.keys import last_four, new_key
from deployments.teams.money import PER_DOLLAR
from deployments.teams.records import Accepted, Budget, Key, LedgerEntry, Limits, Member, Scope, Team
from deployments.teams.store import Store
from model.text.tokenizer import Tokenizer
from tests.support.browser import PATIENCE_MS, WatchedPage, write
from tests.support.fake_backend import MODEL
from tests.support.identity_provider import IdentityProvider, identity_provider
from tests.support.signed_in_app import PEPPER, Office, office

pytestmark = pytest.mark.asyncio(loop_scope="session")
expect.set_options(timeout=PATIENCE_MS)
DAY = 86_400


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with identity_provider() as provider:
        provider.add("ada", "Ada Lovelace", "admins")
        provider.add("bob", "Bob Jansen", "searchers")
        provider.add("cas", "Cas de Vries", "leads")
        provider.add("dot", "Dot")
        yield provider


@pytest.fixture
def running(provider: IdentityProvider, tokenizer: Tokenizer, tmp_path: Path) -> Iterator[Office]:
    provider.here = None
    with office(provider, tokenizer, tmp_path) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def store(running: Office) -> AsyncIterator[Store]:
    store = await Store.open(running.database.url)
    limits = Limits(requests_per_minute=600, tokens_per_minute=250_000, parallel=20)
    await store.create_team("local", "search", limits=limits, budget=Budget(amount=20 * PER_DOLLAR))
    await store.create_team("local", "ads", service_class="batch")
    yield store
    await store.close()


async def visit(context: BrowserContext, running: Office, path: str = "/teams") -> WatchedPage:
    watched = WatchedPage(await context.new_page(), running.url)
    await watched.page.goto(running.url + path)
    return watched


async def sign_in(context: BrowserContext, running: Office, name: str) -> Page:
    """By way of the provider's page."""
    page = (await visit(context, running)).page
    await page.click("#door-sign-in")
    await page.get_by_role("link", name=name).click()
    await expect(page.locator("#who")).to_contain_text(name)
    return page


async def key_of(store: Store, team: Team | None, name: str, *scopes: Scope) -> tuple[Key, str]:
    value = new_key()
    key = Key(
        id=f"key_{name}",
        team_id=None if team is None else team.id,
        name=name,
        digest=PEPPER.digest(value),
        pepper_id=PEPPER.id,
        last_four=last_four(value),
        scopes=scopes,
        created_at=time.time(),
        created_by="local",
    )
    return await store.add_key("local", key), value


async def use(store: Store, team: Team, key: Key, days: int = 12) -> None:
    """Usage of the last days, on the ledger."""
    now = time.time()
    entries = [
        LedgerEntry(
            id=f"{team.id}-{key.id}-{day}-{kind}",
            team_id=team.id,
            key_id=key.id,
            model=MODEL,
            dialect="openai",
            kind=kind,
            started_at=now - day * DAY,
            ended_at=now - day * DAY,
            prompt_tokens=1000 * (day + 3),
            cached_tokens=400 * (day + 1),
            completion_tokens=300 * (day % 4 + 1),
            cost=PER_DOLLAR * (day % 5 + 1) // 4,
            requests=40 + day,
        )
        for day in range(days)
        for kind in ("completed", "superseded")
    ]
    await store.book(entries)
    hour = now // 3600 * 3600 - 3600
    await store.accepted(
        [Accepted(team_id=team.id, key_id=key.id, model=MODEL, dialect="tabby", at=hour, lines=321, completions=99)]
    )


async def axe(page: Page, place: str) -> None:
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE_FILE_PATH.read_text())
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        found = await page.evaluate("axe.run()")
        problems = [(v["id"], [node["html"][:160] for node in v["nodes"]]) for v in found["violations"]]
        assert problems == [], (place, scheme)


async def open_tab(page: Page, name: str) -> None:
    await page.get_by_role("tab", name=name).click()


async def test_from_signing_in_to_a_completion_on_the_bill(
    context: BrowserContext, running: Office, store: Store
) -> None:
    page = await sign_in(context, running, "Bob Jansen")
    await expect(page.locator("#standing")).to_have_text("You are member here.")
    await expect(page.locator("#view-usage")).to_contain_text("Nothing was used in 30 days.")
    await open_tab(page, "Keys")
    await page.get_by_role("button", name="New key").click()
    await page.get_by_label("Name").fill("laptop")
    await page.get_by_role("button", name="Make it").click()
    shown = page.get_by_label("The new API key")
    await expect(page.get_by_role("dialog")).to_contain_text("It is not shown again")
    key = await shown.input_value()
    await context.grant_permissions(["clipboard-read", "clipboard-write"], origin=running.url)
    await page.get_by_role("button", name="Copy").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Copied.")
    assert await page.evaluate("navigator.clipboard.readText()") == key
    await page.get_by_role("button", name="I have it").click()
    await expect(page.locator("#view-keys tbody")).to_contain_text(f"…{key[-4:]}")
    assert key not in await page.content()
    assert await page.evaluate("Object.values(sessionStorage).concat(Object.values(localStorage)).join()") == ""

    playground = await visit(context, running, "/")
    await expect(playground.page.locator("#who")).to_contain_text("Bob Jansen")
    await playground.page.goto("about:blank")
    async with httpx.AsyncClient() as program:
        body = {"prompt": "x = ", "max_tokens": 5}
        sent = {"authorization": f"Bearer {key}"}
        answer = await program.post(f"{running.url}/v1/completions", json=body, headers=sent)
    assert answer.status_code == 200

    async def has_line() -> bool:
        await page.reload()
        await expect(page.locator("#view-usage .tiles")).to_be_visible()
        return await page.locator("#view-usage tbody th", has_text="laptop").count() > 0

    for _ in range(200):
        if await has_line():
            break
    row = page.locator("#view-usage tr", has=page.locator("th", has_text="laptop"))
    usage = answer.json()["usage"]
    cells = await row.locator("td").all_inner_texts()
    assert cells[:3] == ["1", str(usage["prompt_tokens"]), str(usage["completion_tokens"])]

    await open_tab(page, "Keys")
    await page.get_by_role("button", name="Revoke laptop").click()
    await page.get_by_role("button", name="Revoke it").click()
    await expect(page.locator("#view-keys")).to_contain_text("There are no keys yet.")
    async with httpx.AsyncClient() as program:
        refused = await program.post(f"{running.url}/v1/completions", json=body, headers=sent)
    assert refused.status_code == 401


async def test_the_playground_completes_in_ones_session(context: BrowserContext, running: Office, store: Store) -> None:
    page = await sign_in(context, running, "Bob Jansen")
    await page.get_by_role("link", name="Playground").click()
    await expect(page.locator("#server")).to_have_attribute("data-state", "ready")
    async with page.expect_request("**/v1/completions") as asked:
        await page.click("#run")
    assert "authorization" not in await (await asked.value).all_headers()
    await expect(page.locator(".choice").first).to_contain_text("ended")
    await page.click("#view-request-tab")
    await expect(page.locator("#snippet")).to_contain_text("$STARCODER_API_KEY")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.locator("#door")).to_be_visible()


async def test_the_playground_asks_for_a_key(context: BrowserContext, running: Office, store: Store) -> None:
    _, key = await key_of(store, await store.team("search"), "scripts", "generate")
    page = (await visit(context, running, "/")).page
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("This server needs an API key")
    await expect(page.get_by_label("API key", exact=True)).to_be_focused()
    await axe(page, "dialog")
    await page.keyboard.type("sk-sc-wrong")
    await page.keyboard.press("Enter")
    await expect(dialog.get_by_role("alert")).to_contain_text("is none of this server's keys")
    await page.get_by_label("API key", exact=True).fill(key)
    await page.keyboard.press("Enter")
    await expect(dialog).to_have_count(0)
    await expect(page.locator("#server")).to_have_attribute("data-state", "ready")
    await expect(page.locator("#problem")).to_be_hidden()
    async with page.expect_request("**/v1/completions") as asked:
        await page.click("#run")
    assert (await asked.value).headers["authorization"] == f"Bearer {key}"
    await page.reload()
    await expect(page.locator("#who")).to_contain_text(f"Key …{key[-4:]}")
    await page.get_by_role("button", name="Forget key").click()
    assert await page.evaluate("JSON.stringify({...sessionStorage})") == "{}"
    await expect(dialog).to_contain_text("This server needs an API key")


async def test_what_was_typed_survives_signing_in(context: BrowserContext, running: Office, store: Store) -> None:
    page = (await visit(context, running, "/")).page
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    await write(page, "größe = 7")
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("link", name="Bob Jansen").click()
    await expect(page.locator("#server")).to_have_attribute("data-state", "ready")
    await expect(page.locator(".cm-line").first).to_have_text("größe = 7")


async def test_an_owner_manages_people_and_limits_of_keys(
    context: BrowserContext, running: Office, store: Store
) -> None:
    search, ads = await store.team("search"), await store.team("ads")
    await store.set_member(
        "local", Member(user="eve", team_id=ads.id, role="member", email="eve@example.com", name="Eve")
    )
    await key_of(store, search, "nightly", "generate", "usage")
    page = await sign_in(context, running, "Cas de Vries")
    await open_tab(page, "Members")
    await page.get_by_role("button", name="Add somebody").click()
    await page.get_by_label("Id or e-mail address").fill("nobody@example.com")
    await page.get_by_role("button", name="Add", exact=True).click()
    await expect(page.get_by_role("alert").filter(has_text="nobody")).to_be_visible()
    await page.get_by_label("Id or e-mail address").fill("eve@example.com")
    await page.get_by_role("button", name="Add", exact=True).click()
    await expect(page.locator("#view-members tbody")).to_contain_text("Eve")
    await page.get_by_label("Role of Eve").select_option("viewer")
    await expect(page.locator("#announcer")).to_have_text("Eve is viewer now.")
    assert {m.user: m.role for m in await store.members(search.id)} == {"cas": "owner", "eve": "viewer"}
    await page.get_by_role("button", name="Remove Eve").click()
    await page.get_by_role("button", name="Remove", exact=True).click()
    await expect(page.locator("#view-members tbody")).not_to_contain_text("Eve")

    await open_tab(page, "Keys")
    await page.get_by_role("button", name="Limits of nightly").click()
    await page.get_by_label("Requests a minute").fill("60")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("#view-keys tbody tr")).to_contain_text("60")
    assert (await store.key("key_nightly")).limits == Limits(requests_per_minute=60)
    assert await page.get_by_role("tab", name="Audit log").count() == 0


async def test_a_viewer_looks_only_and_a_stranger_is_told_whom_to_ask(
    context: BrowserContext, running: Office, store: Store
) -> None:
    search = await store.team("search")
    page = await sign_in(context, running, "Dot")
    await expect(page.locator("#nowhere")).to_contain_text("You are in no team yet")
    await expect(page.locator("#own-id")).to_have_text("dot")
    await store.set_member("local", Member(user="dot", team_id=search.id, role="viewer"))
    await key_of(store, search, "nightly", "generate")

    async def inside() -> bool:
        await page.reload()
        await expect(page.locator("#who")).to_contain_text("Dot")
        await expect(page.locator("#nowhere, #inside").locator("visible=true")).to_have_count(1)
        return await page.locator("#inside").is_visible()

    while not await inside():  # known within two seconds
        pass
    await open_tab(page, "Keys")
    await expect(page.locator("#view-keys tbody")).to_contain_text("nightly")
    assert await page.locator("#view-keys button").count() == 0


async def test_an_administrator_by_key(context: BrowserContext, running: Office, store: Store) -> None:
    _, key = await key_of(store, None, "root", "admin")
    watched = await visit(context, running)
    page = watched.page
    await page.click("#door-key")
    await page.get_by_label("API key", exact=True).fill(key)
    await page.get_by_role("button", name="Use it").click()
    await expect(page.locator("#standing")).to_have_text("You are an administrator.")
    await open_tab(page, "Teams")
    await page.get_by_role("button", name="New team").click()
    await page.get_by_label("Name").fill("search")
    await page.get_by_role("button", name="Make it").click()
    await expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("search")
    await page.get_by_label("Name").fill("maps")
    await page.get_by_label("Class of service").select_option("interactive")
    await page.get_by_label("Weight").fill("2.5")
    await page.get_by_label("Tokens a minute").fill("100000")
    await page.get_by_label("Budget in USD").fill("12.50")
    await page.get_by_label("Compute nothing beyond the budget").check()
    await page.get_by_role("button", name="Make it").click()
    await expect(page.locator("#view-teams tbody")).to_contain_text("maps")
    made = await store.team("maps")
    assert (made.weight, made.service_class, made.limits) == (2.5, "interactive", Limits(tokens_per_minute=100_000))
    assert made.budget == Budget(amount=25 * PER_DOLLAR // 2, period="month", hard=True)
    await expect(page.locator("#view-teams h2")).to_be_focused()
    await page.get_by_role("button", name="Change maps").click()
    await page.get_by_label("Budget in USD").fill("")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("#announcer")).to_have_text("The team maps is changed.")
    assert (await store.team("maps")).budget is None
    await page.get_by_role("button", name="End maps").click()
    await page.get_by_role("button", name="End it").click()
    await expect(page.locator("#view-teams tbody")).not_to_contain_text("maps")

    await open_tab(page, "Prices")
    await page.get_by_role("button", name="New price").click()
    await page.get_by_label("Model").fill(MODEL)
    await page.get_by_label("USD for 1,000 prompt tokens").fill("0.0002")
    await page.get_by_label("USD for 1,000 generated").fill("0.0008")
    await page.get_by_role("button", name="Set it").click()
    await expect(page.locator("#view-prices tbody")).to_contain_text(MODEL)
    await open_tab(page, "Audit log")
    await expect(page.locator("#view-audit tbody")).to_contain_text("key:key_root")
    await expect(page.locator("#view-audit tbody")).to_contain_text("team.archived")
    assert key not in await page.content()
    assert key not in page.url
    assert watched.complaints == []
    assert watched.outside == []


async def test_axe_finds_no_barrier_and_nothing_is_wider_than_a_phone(
    context: BrowserContext, running: Office, store: Store
) -> None:
    search = await store.team("search")
    scripts, _ = await key_of(store, search, "nightly evaluation", "generate", "usage")
    laptop, _ = await key_of(store, search, "laptop", "generate")
    await use(store, search, scripts)
    await use(store, search, laptop, 5)
    await store.set_member("local", Member(user="bob", team_id=search.id, role="member", name="Bob"))
    await axe((await visit(context, running)).page, "door")
    page = await sign_in(context, running, "Ada Lovelace")
    for team in ("all teams", "search"):
        await page.locator("#team").select_option(label=team)
        for name in ("Usage", "Keys", "Members", "Teams", "Prices", "Audit log"):
            tab = page.get_by_role("tab", name=name)
            if await tab.count() == 0:
                continue
            await tab.click()
            panel = page.locator('[role="tabpanel"]:visible')
            await expect(panel.get_by_role("heading", name=name).first).to_be_visible()
            await expect(panel).not_to_have_attribute("aria-busy", "true")
            await axe(page, f"{name} of {team}")
            for width in (390, 1280, 1920):
                await page.set_viewport_size({"width": width, "height": 900})
                assert await page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
    await open_tab(page, "Usage")
    await expect(page.locator("#view-usage .budget")).to_be_visible()
    words = await page.locator("#view-usage svg[role=img]").evaluate_all(
        "all => all.map(one => one.getAttribute('aria-label'))"
    )
    assert [text.partition(":")[0].partition(",")[0] for text in words][1:] == ["Cost by day", "Tokens by day"]
    assert "of $20.00 spent this month" in words[0]
    await page.locator("#range").select_option("90")
    await expect(page.locator(".tiles")).to_have_attribute("aria-label", "Sums of 90 days")
    await expect(page.locator("#range")).to_be_focused()


async def test_by_keyboard_alone(context: BrowserContext, running: Office, store: Store) -> None:
    """From the first tab stop to a key and back, without a mouse."""
    page = await sign_in(context, running, "Bob Jansen")
    await page.reload()
    await expect(page.locator("#view-usage h2")).to_be_visible()

    async def to(selector: str) -> None:
        for _ in range(40):
            await page.keyboard.press("Tab")
            if await page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"no tab stop is {selector}")

    await to(".skip")
    await page.keyboard.press("Enter")
    await expect(page.locator("#main")).to_be_focused()
    await to("#tab-usage")
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#tab-keys")).to_be_focused()
    await expect(page.locator("#view-keys h2")).to_be_visible()
    await to("#view-keys button.primary")
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Name")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(page.locator("#view-keys button.primary")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.type("by hand")
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("The new API key")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.locator("#view-keys h2")).to_be_focused()
    await expect(page.locator("#announcer")).to_have_text("The key by hand is made.")
    await to("[aria-label='Revoke by hand']")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_contain_text("cannot be undone")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("#view-keys")).to_contain_text("There are no keys yet.")
