"""The reference as people use it: in a real browser, over HTTP, with a backend that always gives the same answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, expect

from tests.deployments.playground.test_around import enter_key
from tests.support.axe import axe
from tests.support.browser import PATIENCE_MS, WatchedPage
from tests.support.fake_backend import ANSWER, FakeBackend

pytestmark = pytest.mark.asyncio(loop_scope="session")
expect.set_options(timeout=PATIENCE_MS)

OPEN = ".opblock.is-open"


@pytest_asyncio.fixture(loop_scope="session")
async def docs(context: BrowserContext, url: str) -> AsyncIterator[Page]:
    """With a language remembered that there is none of.

    Afterwards nothing may have been complained of, or loaded from elsewhere.
    """
    watched = WatchedPage(await context.new_page(), url)
    await watched.page.add_init_script("localStorage.setItem('starcoder-docs-language', 'COBOL')")
    await watched.page.goto(f"{url}/docs")
    await expect(watched.page.locator(f"{OPEN} .samples")).to_be_visible()
    yield watched.page
    assert watched.complaints == []
    assert watched.outside == []


async def test_the_reference_runs_its_examples(docs: Page, url: str, fake_backend: FakeBackend) -> None:
    first = docs.locator(OPEN)
    await expect(first.locator(".opblock-summary")).to_contain_text("/v1/completions")
    await expect(first.locator(".samples pre")).to_contain_text(f"curl {url}/v1/completions")
    await first.get_by_role("button", name="Python").click()
    borders = [
        await first.get_by_role("button", name=name).evaluate("one => getComputedStyle(one).boxShadow")
        for name in ("Python", "curl")
    ]
    assert borders[0] != borders[1] == "none"  # which is chosen is to be seen, too
    await expect(first.locator(".samples pre")).to_contain_text("httpx.post(")
    await enter_key(docs, "sk-secret")
    async with docs.expect_request("**/v1/completions") as asked:
        await first.get_by_role("button", name="Execute").click()
    assert (await asked.value).headers["authorization"] == "Bearer sk-secret"
    await expect(first.locator(".live-responses-table")).to_contain_text(ANSWER.split("(")[0])
    assert "sk-secret" not in await docs.inner_text("body")
    assert len(fake_backend.requests) == 1
    await axe(docs, "the reference")
    # On a phone the contents are folded, and lead to a route.
    await docs.set_viewport_size({"width": 390, "height": 844})
    await expect(docs.locator("#sections a").first).to_be_hidden()
    await docs.get_by_text("Contents", exact=True).click()
    await docs.locator("#sections summary", has_text="Models").click()
    await docs.locator("#sections a", has_text="/v1/models/{model_id}").click()
    route = docs.locator(OPEN, has_text="/v1/models/{model_id}")
    await expect(route).to_be_in_viewport()
    await expect(docs.locator("#sections a").first).to_be_hidden()
    await route.get_by_role("button", name="Execute").click()  # the served model's id is there
    await expect(route.locator(".live-responses-table")).to_contain_text((await fake_backend.info()).id)
    assert await docs.evaluate("document.documentElement.scrollWidth <= innerWidth")
