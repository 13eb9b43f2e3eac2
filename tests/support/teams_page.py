"""What tests of the page of teams do: sign in as somebody, put keys and usage there, and look for barriers."""

from __future__ import annotations

import time

from playwright.async_api import BrowserContext, Page, expect

from deployments.teams.keys import last_four, new_key
from deployments.teams.money import PER_DOLLAR
from deployments.teams.records import Accepted, Key, LedgerEntry, Scope, Team
from deployments.teams.store import Store
from tests.support.browser import WatchedPage
from tests.support.fake_backend import MODEL
from tests.support.signed_in_app import Office

DAY = 86_400


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


async def key_of(running: Office, store: Store, team: Team | None, name: str, *scopes: Scope) -> tuple[Key, str]:
    value = new_key()
    digest, pepper_id = running.key_digest(value)
    key = Key(
        id=f"key_{name}",
        team_id=None if team is None else team.id,
        name=name,
        digest=digest,
        pepper_id=pepper_id,
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


async def open_tab(page: Page, name: str) -> None:
    await page.get_by_role("tab", name=name).click()
