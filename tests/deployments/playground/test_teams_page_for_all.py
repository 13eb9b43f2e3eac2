"""The page of teams for everybody: screen readers, the keyboard, small and large windows."""

from __future__ import annotations

import pytest
from playwright.async_api import BrowserContext, expect

from deployments.teams.records import Member
from deployments.teams.store import Store
from tests.support.axe import axe
from tests.support.browser import PATIENCE_MS
from tests.support.signed_in_app import Office
from tests.support.teams_page import key_of, open_tab, sign_in, use, visit

pytestmark = pytest.mark.asyncio(loop_scope="session")
expect.set_options(timeout=PATIENCE_MS)


async def test_axe_finds_no_barrier_and_nothing_is_wider_than_a_phone(
    context: BrowserContext, running: Office, store: Store
) -> None:
    search = await store.team("search")
    scripts, _ = await key_of(running, store, search, "nightly evaluation", "generate", "usage")
    laptop, _ = await key_of(running, store, search, "laptop", "generate")
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
