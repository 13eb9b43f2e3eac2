"""The page of teams in a real browser, over the real app, with a provider, a database and a ledger."""

from __future__ import annotations

import httpx
import pytest
from playwright.async_api import BrowserContext, expect

from deployments.teams.money import PER_DOLLAR
from deployments.teams.records import Budget, Limits, Member
from deployments.teams.store import Store
from tests.support.axe import axe
from tests.support.browser import PATIENCE_MS, write
from tests.support.fake_backend import MODEL
from tests.support.signed_in_app import Office
from tests.support.teams_page import key_of, open_tab, sign_in, visit

pytestmark = pytest.mark.asyncio(loop_scope="session")
expect.set_options(timeout=PATIENCE_MS)


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
    _, key = await key_of(running, store, await store.team("search"), "scripts", "generate")
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
    assert key not in await page.evaluate("JSON.stringify({...sessionStorage})")
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
    await key_of(running, store, search, "nightly", "generate", "usage")
    page = await sign_in(context, running, "Cas de Vries")
    await open_tab(page, "Members")
    await page.get_by_role("button", name="Add somebody").click()
    await page.get_by_label("Id or e-mail address").fill("eve@example.com")
    await page.get_by_role("button", name="Add", exact=True).click()
    await expect(page.get_by_role("alert").filter(has_text="Only administrators")).to_be_visible()
    await page.get_by_label("Id or e-mail address").fill("eve")
    await page.get_by_role("button", name="Add", exact=True).click()
    await expect(page.locator("#view-members tbody")).to_contain_text("eve")
    await page.get_by_label("Role of eve").select_option("viewer")
    await expect(page.locator("#announcer")).to_have_text("eve is viewer now.")
    assert {m.user: m.role for m in await store.members(search.id)} == {"cas": "owner", "eve": "viewer"}
    await page.get_by_role("button", name="Remove eve").click()
    await page.get_by_role("button", name="Remove", exact=True).click()
    await expect(page.locator("#view-members tbody")).not_to_contain_text("eve")

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
    await key_of(running, store, search, "nightly", "generate")

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
    _, key = await key_of(running, store, None, "root", "admin")
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
