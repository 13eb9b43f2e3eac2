"""Debian's Chromium without windows, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Response, async_playwright

from tests.support.programs import program

_OPTIONS = (
    # Continuous integration runs as root, where Chromium's own sandbox does not start.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--no-first-run",
)
PATIENCE_MS = 60_000
"""How long a page may take to show something: machines are slow and shared."""


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    # The same engine without a browser around it: a page costs a third of the processor's time.
    path = shutil.which("chromium-headless-shell") or program("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(_OPTIONS))
        try:
            yield browser
        finally:
            await browser.close()


class WatchedPage:
    """A page, and what went wrong on it.

    complaints: console warnings and errors (violations of the policy are among them), uncaught exceptions, and what
    could not be loaded. That a POST was refused is no complaint.
    outside: requests to anywhere but the server.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.outside: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("response", self._check)
        page.on("request", lambda r: None if r.url.startswith((url, "blob:", "data:")) else self.outside.append(r.url))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("warning", "error") and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    def _check(self, response: Response) -> None:
        if response.request.method == "GET" and response.status >= 400:
            self.complaints.append(f"{response.status} for {response.url}")

    @classmethod
    async def open(cls, context: BrowserContext, url: str, fragment: str = "") -> WatchedPage:
        """The playground at `url`, ready for its user."""
        watched = cls(await context.new_page(), url)
        await watched.page.goto(f"{url}/{fragment}")
        await watched.page.wait_for_selector("#server[data-state=ready]")
        return watched


async def write(page: Page, text: str) -> None:
    """Replace what is in the editor, as a user does."""
    await page.locator(".cm-content").click()
    await page.keyboard.press("Control+a")
    await page.keyboard.insert_text(text)


async def document(page: Page) -> str:
    lines = await page.locator(".cm-line").evaluate_all(
        """lines => lines.map(line => {
            const copy = line.cloneNode(true);
            for (const ghost of copy.querySelectorAll('.cm-ghost')) ghost.remove();
            return copy.textContent;
        })"""
    )
    return "\n".join(lines)
