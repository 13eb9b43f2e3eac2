"""The playground for everybody: links, code to copy, themes, the keyboard, screen readers, and the pages beside it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys

import pytest
from playwright.async_api import BrowserContext, Page, expect

from deployments.clients.client import NO_KEY, Server
from deployments.clients.registry import clients
from deployments.ingress import create_app
from model.text.tokenizer import Tokenizer
from tests.support.axe import axe
from tests.support.browser import PATIENCE_MS, WatchedPage, document, write
from tests.support.fake_backend import MODEL, FakeBackend
from tests.support.http_server import serving
from tests.support.programs import program

pytestmark = pytest.mark.asyncio(loop_scope="session")
expect.set_options(timeout=PATIENCE_MS)


async def enter_key(page: Page, key: str) -> None:
    await page.get_by_role("button", name="Enter an API key").click()
    await page.fill("#key", key)
    await page.get_by_role("button", name="Use it").click()
    await expect(page.locator("#who")).to_contain_text("Forget key")


async def check_configurations(page: Page, backend: FakeBackend, key: str) -> None:
    """The page's are the documents', with this server's address, model and window, and say where they go."""
    server = Server(page.url.partition("/#")[0].rstrip("/"), MODEL, backend.window, key)
    for kind, client in clients().items():
        if client.file is None:
            continue
        await page.select_option("#snippet-kind", kind)
        await expect(page.locator("#snippet")).to_have_text(client.configured(server), use_inner_text=True)
        await expect(page.locator("#snippet-note")).to_contain_text(client.file.replace("`", ""))


async def test_a_link_opens_as_it_was_shared_without_the_key(
    context: BrowserContext, watched: WatchedPage, fake_backend: FakeBackend
) -> None:
    page = watched.page
    await page.uncheck("#as-you-type")
    await enter_key(page, "sk-secret")
    await page.select_option("#language", "go")
    await write(page, "func größe() {}")
    await page.keyboard.press("ArrowLeft")
    await page.fill("[name=temperature]", "0.7")
    await page.fill("[name=stop]", "\\n\\n")
    await page.click("#share")
    await expect(page.locator("#share-link")).to_be_visible()
    link = await page.input_value("#share-link")
    assert link.startswith(f"{watched.url}/#s=")
    other = await WatchedPage.open(context, watched.url, link.removeprefix(f"{watched.url}/"))
    assert await document(other.page) == "func größe() {}"
    assert await other.page.input_value("#language") == "go"
    await expect(other.page.locator("#who")).to_contain_text("API key")
    assert fake_backend.requests == []  # a link runs nothing by itself
    await other.page.click("#run")
    await expect(other.page.locator(".choice")).to_contain_text("ended")
    assert fake_backend.requests[0].params.temperature == 0.7
    assert fake_backend.requests[0].stop == ("\n\n",)
    prompt = fake_backend.tokenizer.decode(fake_backend.requests[0].prompts[0], skip_special=False)
    assert "<fim_suffix>}" in prompt
    assert prompt.endswith("{")
    damaged = await WatchedPage.open(context, watched.url, "#s=AAAA")
    await expect(damaged.page.locator("#problem")).to_contain_text("This link cannot be read")
    assert [*other.complaints, *damaged.complaints] == []


async def test_code_to_copy_runs(page: Page, fake_backend: FakeBackend) -> None:
    await page.uncheck("#as-you-type")
    await write(page, "it's = 'größe \\n'")
    await page.keyboard.press("ArrowLeft")
    await page.fill("[name=stop]", "\\n")
    await page.click("#view-request-tab")
    programs = {
        "curl": ["bash", "-c"],
        "python": [sys.executable, "-c"],
        "javascript": [program("node", "nodejs"), "--input-type=module", "-e"],
    }
    for number, (kind, command) in enumerate(programs.items()):
        await page.select_option("#snippet-kind", kind)
        await expect(page.locator("#snippet")).to_contain_text("größe")
        await expect(page.locator("#snippet")).not_to_contain_text("logprobs")
        text = await page.locator("#snippet").inner_text()
        result = await asyncio.to_thread(subprocess.run, [*command, text], capture_output=True, text=True, timeout=120)
        assert "def größe(a, b):" in result.stdout, (kind, result)
        assert "return" not in result.stdout
        assert len(fake_backend.requests) == number + 1
    await check_configurations(page, fake_backend, NO_KEY)
    first, *others = fake_backend.requests
    assert all((other.prompts, other.params) == (first.prompts, first.params) for other in others)
    prompt = fake_backend.tokenizer.decode(first.prompts[0], skip_special=False)
    assert prompt.startswith("<fim_prefix><fim_suffix>'")
    assert prompt.endswith("it's = 'größe \\n")


async def test_the_key_goes_to_the_server_and_nowhere_else(page: Page, fake_backend: FakeBackend) -> None:
    await enter_key(page, "sk-secret")
    async with page.expect_request("**/v1/completions") as asked:
        await page.click("#run")
    assert (await asked.value).headers["authorization"] == "Bearer sk-secret"
    await expect(page.locator(".choice")).to_contain_text("ended")
    cookies, for_ever, for_the_tab = await page.evaluate("[document.cookie, {...localStorage}, {...sessionStorage}]")
    assert (cookies, for_ever) == ("", {})
    assert [name for name, value in for_the_tab.items() if "sk-secret" in value] == ["starcoder-key"]
    await page.click("#view-request-tab")
    await expect(page.locator("#snippet")).to_contain_text("STARCODER_API_KEY")
    for kind in await page.locator("#snippet-kind option").evaluate_all("all => all.map(one => one.value)"):
        await page.select_option("#snippet-kind", kind)
        text = await page.locator("#snippet").inner_text()
        assert "sk-secret" not in text
        assert re.search(r"127\.0\.0\.1:\d+", text)
    await check_configurations(page, fake_backend, "YOUR_KEY")


async def test_the_browser_enforces_the_policy(context: BrowserContext, url: str) -> None:
    watched = await WatchedPage.open(context, url)
    attempts = """() => {
        const done = [];
        const attempt = (name, action) => { try { action(); } catch { done.push(name); } };
        const script = document.body.appendChild(document.createElement("script"));
        attempt("script", () => { script.textContent = "hacked = 1"; });
        attempt("html", () => { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='hacked = 1'>"); });
        const box = document.body.appendChild(document.createElement("p"));
        box.setAttribute("style", "position: fixed");
        return [done, globalThis.hacked ?? null, getComputedStyle(box).position];
    }"""
    assert await watched.page.evaluate(attempts) == [["script", "html"], None, "static"]
    await watched.page.evaluate("fetch('https://elsewhere.invalid/').catch(() => {})")
    assert any("elsewhere.invalid" in complaint for complaint in watched.complaints)


async def test_dark_and_light(page: Page) -> None:
    async def ground() -> str:
        return str(await page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = await ground()
    await page.emulate_media(color_scheme="dark")
    dark = await ground()
    assert dark != light
    await page.get_by_role("button", name="Light theme").click()  # from the system's dark, and kept
    assert await ground() == light
    await page.reload()
    assert await ground() == light
    await page.get_by_role("button", name="Dark theme").click()
    await page.emulate_media(color_scheme="light")  # the page follows again
    assert await ground() == light


async def test_axe_finds_no_barrier(page: Page) -> None:
    """On every view."""
    await page.evaluate("for (const group of document.querySelectorAll('details')) group.open = true")
    await page.fill("[name=n]", "2")
    await page.click("#add-file")
    await page.click("#run")
    await expect(page.locator(".choice").nth(1)).to_contain_text("ended")
    await axe(page, "output")
    await page.click("#view-prompt-tab")
    await expect(page.locator("#prompt .special").first).to_be_visible()
    await axe(page, "exact prompt")
    await page.click("#view-request-tab")
    await axe(page, "request")
    await page.click("#view-past-tab")
    await expect(page.locator("#past pre").first).to_be_visible()
    await page.locator(".parameter .name").first.hover()
    await axe(page, "history")
    await page.click("#task-refactor")
    await page.fill("#instruction", "Rename it")
    await page.keyboard.press("Enter")
    await expect(page.locator(".diff")).to_be_visible()
    await axe(page, "refactor")


async def test_the_keyboard_reaches_everything_and_leaves_the_editor(page: Page) -> None:
    await page.locator(".cm-content").focus()
    await page.keyboard.press("Escape")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.id") != "editor"
    await page.locator("#view-output-tab").focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#view-prompt-tab")).to_be_focused()
    await expect(page.locator("#view-prompt")).to_be_visible()


async def test_the_pages_beside_it(context: BrowserContext, fake_backend: FakeBackend, tokenizer: Tokenizer) -> None:
    card = (
        "---\nlicense: x\n---\n# A model\n\n<script>alert(1)</script>\n\n![](https://elsewhere.invalid/x.png)\n\n"
        "| a |\n| --: |\n| 1 |\n"
    )
    with serving(create_app(backend=fake_backend, tokenizer=tokenizer, model_card=card)) as url:
        watched = await WatchedPage.open(context, url)
        page = watched.page
        await page.click("footer a[href=model-card]")
        await expect(page.locator("h1")).to_have_text("A model")
        await axe(page, "model card")
        await page.click("nav a[href=terms]")
        await expect(page.locator("h1")).to_have_text("Use restrictions")
        assert watched.complaints == []
        assert watched.outside == []
