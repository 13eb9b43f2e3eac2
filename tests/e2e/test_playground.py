"""The playground over the whole stack: Chromium, Serve's proxy, the ingress, two ranks."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from playwright.async_api import BrowserContext, expect

from tests.support.browser import PATIENCE_MS, WatchedPage, write
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

LONGER = 'length => document.querySelector(".choice pre").textContent.length > length'
STOP_ONCE_LONGER = """(length) => {
  const stop = document.getElementById("stop");
  new MutationObserver((_, observer) => {
    const text = document.querySelector(".choice pre")?.textContent ?? "";
    if (stop.hidden || text.length <= length) return;
    observer.disconnect();
    stop.click();
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""
"""The page itself clicks, in the moment when a text has grown so long: a driver may come when all of it is there."""


async def test_suggestions_come_from_the_engine_and_stop_there_too(cluster: Cluster, context: BrowserContext) -> None:
    watched = await WatchedPage.open(context, cluster.url)
    page = watched.page
    await page.fill("[name=temperature]", "0")
    await page.select_option("[name=completion_mode]", "raw")
    await page.fill("[name=max_tokens]", "12")
    async with page.expect_request("**/v1/completions") as asked:
        await write(page, "def wrap(text, width=70):\n    return")
    body = json.loads((await asked.value).post_data or "")
    same = await asyncio.to_thread(
        httpx.post, f"{cluster.url}/v1/completions", json={**body, "stream": False, "stream_options": None}, timeout=120
    )
    wanted = same.json()["choices"][0]["text"]
    assert wanted
    await expect(page.locator("#figure-generated")).to_contain_text("tokens", timeout=PATIENCE_MS)
    await expect(page.locator(".choice pre")).to_have_text(wanted, use_inner_text=False)
    await expect(page.locator(".cm-ghost")).to_have_text(wanted, use_inner_text=False)

    await page.uncheck("#as-you-type")
    await page.fill("[name=max_tokens]", "1500")
    await page.evaluate(STOP_ONCE_LONGER, len(wanted))
    await page.click("#run")
    await page.wait_for_function(LONGER, arg=len(wanted), timeout=PATIENCE_MS)
    await expect(page.locator("#stop")).to_be_hidden(timeout=PATIENCE_MS)

    def idle() -> bool:
        health = cluster.health()
        return health is not None and health["running"] == 0

    await asyncio.to_thread(wait_until, idle, "the engine still runs what nobody waits for")
    assert watched.complaints == []
    assert watched.outside == []
