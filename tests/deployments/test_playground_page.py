"""The playground as people use it: in a real browser, over HTTP, with a backend that always gives the same answer."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.async_api import BrowserContext, Page, expect

from deployments.errors import EngineUnavailableError, OverloadedError
from deployments.ingress import create_app
from model.tokenizer import Tokenizer
from tests.support.browser import PATIENCE_MS, WatchedPage
from tests.support.fake_backend import ANSWER, FakeBackend
from tests.support.http_server import serving, wait_until
from tests.support.programs import program

pytestmark = pytest.mark.asyncio(loop_scope="session")
expect.set_options(timeout=PATIENCE_MS)


class Gate:
    """Holds the backend's tokens back; the server's thread looks at it."""

    def __init__(self) -> None:
        self.is_open = False

    async def wait(self) -> None:
        while not self.is_open:  # noqa: ASYNC110 (opened by another thread)
            await asyncio.sleep(0.005)


@pytest_asyncio.fixture(loop_scope="session")
async def watched(context: BrowserContext, url: str) -> AsyncIterator[WatchedPage]:
    """The page on a running server. Afterwards nothing may have been complained of or loaded from elsewhere."""
    watched = await WatchedPage.open(context, url)
    yield watched
    assert watched.complaints == []
    assert watched.outside == []


@pytest.fixture
def page(watched: WatchedPage) -> Page:
    return watched.page


async def until(condition: Callable[[], object], message: str) -> None:
    await asyncio.to_thread(wait_until, condition, message, PATIENCE_MS / 1000)


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


GHOST = ".cm-ghost"


async def suggested(page: Page, code: str = "x = ") -> None:
    await write(page, code)
    await expect(page.locator(GHOST)).to_have_text(ANSWER, use_inner_text=False)


async def test_ghost_text_appears_as_one_types_and_tab_takes_it(page: Page, fake_backend: FakeBackend) -> None:
    await page.uncheck("#as-you-type")
    await write(page, "x")
    await page.check("#as-you-type")
    await page.locator(".cm-content").click()
    await page.keyboard.press("Control+End")
    await page.keyboard.type(" =")
    await expect(page.locator(GHOST)).to_have_text(ANSWER)
    assert await document(page) == "x ="  # not in the document yet
    await expect(page.locator("#announcer")).to_contain_text("Tab accepts")
    await page.uncheck("#as-you-type")
    await page.locator(".cm-content").focus()
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#stop")).to_be_hidden()
    await expect(page.locator(GHOST)).to_have_text(ANSWER)
    await page.keyboard.press("Tab")
    assert await document(page) == f"x ={ANSWER}"
    await expect(page.locator(GHOST)).to_have_count(0)
    typed = fake_backend.requests[0]
    assert fake_backend.tokenizer.decode(typed.prompts[0]).endswith("x =")


async def test_a_word_at_a_time_typing_ahead_and_escape(page: Page, fake_backend: FakeBackend) -> None:
    await suggested(page)
    asked = len(fake_backend.requests)
    await page.keyboard.press("Control+ArrowRight")
    assert await document(page) == "x = def"
    await expect(page.locator(GHOST)).to_have_text(ANSWER.removeprefix("def"))
    await page.keyboard.type(" grö")  # what the suggestion says
    assert await document(page) == "x = def grö"
    await expect(page.locator(GHOST)).to_have_text(ANSWER.removeprefix("def grö"))
    assert len(fake_backend.requests) == asked  # nothing had to be asked again
    await page.keyboard.press("Escape")
    await expect(page.locator(GHOST)).to_have_count(0)
    assert await document(page) == "x = def grö"


async def test_typing_something_else_cancels(page: Page, fake_backend: FakeBackend) -> None:
    gate = Gate()
    fake_backend.gate = gate  # type: ignore[assignment]
    await write(page, "x = ")
    await expect(page.locator(GHOST)).to_have_text("def")
    await page.keyboard.type("7")
    await until(lambda: fake_backend.closed[:1] == [fake_backend.requests[0].request_id], "it still runs")
    gate.is_open = True
    await expect(page.locator(GHOST)).to_have_text(ANSWER)
    assert await document(page) == "x = 7"
    assert fake_backend.tokenizer.decode(fake_backend.requests[-1].prompts[0]).endswith("x = 7")


async def test_ctrl_enter_streams_at_the_cursor_and_esc_stops(page: Page, fake_backend: FakeBackend) -> None:
    await page.uncheck("#as-you-type")
    await write(page, "a = b")
    await page.keyboard.press("ArrowLeft")
    gate = Gate()
    fake_backend.gate = gate  # type: ignore[assignment]
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(GHOST)).to_have_text("def")
    await expect(page.locator("#stop")).to_be_visible()
    prompt = fake_backend.tokenizer.decode(fake_backend.requests[0].prompts[0], skip_special=False)
    assert "a = <fim_suffix>b<fim_middle>" in prompt
    await page.keyboard.press("Escape")
    await until(lambda: len(fake_backend.closed) == 1, "it still runs")
    await expect(page.locator("#stop")).to_be_hidden()
    await expect(page.locator(GHOST)).to_have_count(0)
    await expect(page.locator(".choice")).to_contain_text("stopped")
    assert await document(page) == "a = b"
    gate.is_open = True
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(GHOST)).to_have_text(ANSWER)
    await expect(page.locator("#figure-ttft")).to_contain_text("ms")
    await expect(page.locator("#figure-cached")).to_contain_text("16")
    await expect(page.locator("#figure-left")).to_contain_text("of 256")


async def test_choices_side_by_side_and_what_else_a_token_could_have_been(page: Page) -> None:
    await page.uncheck("#as-you-type")
    await write(page, "x = ")
    await page.fill("[name=n]", "3")
    await page.click("#run")
    choices = page.locator(".choice")
    await expect(choices).to_have_count(3)
    await expect(choices.nth(2).locator("footer")).to_contain_text("ended")
    tops = {(await choices.nth(i).bounding_box() or {})["y"] for i in range(3)}
    assert len(tops) == 1
    await choices.nth(0).locator(".token").first.hover()
    rows = page.locator("#detail tr")
    await expect(rows).to_have_count(5)
    await expect(page.locator("#detail tr.chosen")).to_contain_text("def")
    await page.mouse.move(0, 0)
    await choices.nth(1).locator("pre").focus()
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#detail")).to_be_visible()
    await expect(page.locator("#announcer")).to_contain_text("%")
    await page.keyboard.press("Escape")
    await expect(page.locator("#detail")).to_be_hidden()
    await choices.nth(1).get_by_role("button").click()
    assert len(await document(page)) > len("x = ")


async def test_the_exact_prompt_with_its_special_tokens(page: Page) -> None:
    await write(page, "größe = '<fim_middle>'")
    await page.fill("[name=repository]", "acme/shop")
    await page.click("#add-file")
    await page.fill(".file input", "tax.py")
    await page.fill(".file textarea", "RATE = 7\n")
    await page.locator(".cm-content").click()
    await page.keyboard.press("Control+End")
    await page.keyboard.press("ArrowLeft")
    await page.click("#view-prompt-tab")
    special = page.locator("#prompt .special")
    await expect(special).to_have_text(
        [
            *("<reponame>", "<filename>", "<|endoftext|>"),
            *("<fim_prefix>", "<reponame>", "<filename>", "<fim_suffix>", "<fim_middle>"),
        ]
    )
    await expect(page.locator("#prompt")).to_contain_text("größe = '<fim_middle>")  # what was typed is text
    await expect(page.locator("#prompt-summary")).to_contain_text("8 of them special")


async def test_refactor_shows_a_diff_that_can_be_applied(page: Page, fake_backend: FakeBackend) -> None:
    await page.click("#task-refactor")
    await write(page, "def größe(a, b):\n    return a - b\n")
    await page.fill("#instruction", "Add, not subtract")
    await page.keyboard.press("Enter")
    await expect(page.locator(".diff .removed")).to_have_text(["-    return a - b"])
    await expect(page.locator(".diff .added")).to_have_text(["+    return a + b  # 漢字 🎉"])
    assert len(fake_backend.requests) == 1
    await page.get_by_role("button", name="Apply").click()
    assert await document(page) == ANSWER


async def test_too_long_is_explained_and_can_be_cut(page: Page, fake_backend: FakeBackend) -> None:
    await page.uncheck("#as-you-type")
    await write(page, "word " * 2000)
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#problem")).to_contain_text("Too long")
    await expect(page.locator("#problem")).to_contain_text("256 tokens")
    assert fake_backend.requests == []
    await page.click("#problem-action")
    await expect(page.locator(".choice")).to_contain_text("ended")
    await expect(page.locator("#problem")).to_be_hidden()


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (
            OverloadedError("Full.", retry_after=7.0),
            "Its queue is full, so the request was not started. Try again in 7 s.",
        ),
        (EngineUnavailableError("It is starting.", retry_after=2.0), "not available. It is starting."),
    ],
)
async def test_failures_in_words(
    context: BrowserContext, url: str, fake_backend: FakeBackend, failure: Exception, words: str
) -> None:
    watched = await WatchedPage.open(context, url)
    page = watched.page
    fake_backend.failure, fake_backend.failures_left = failure, 1
    await page.click("#run")
    await expect(page.locator("#problem")).to_contain_text(words)
    await page.click("#problem-action")
    await expect(page.locator("#problem")).to_be_hidden()
    await expect(page.locator(".choice")).to_contain_text("ended")
    assert watched.complaints == []


async def test_a_failure_in_the_middle_keeps_what_there_was(page: Page, fake_backend: FakeBackend) -> None:
    fake_backend.failure, fake_backend.fail_at = EngineUnavailableError("rank 1 is dead"), 5
    await page.click("#run")
    await expect(page.locator("#problem")).to_contain_text("rank 1 is dead")
    await expect(page.locator(".choice pre")).to_contain_text("def")
    await expect(page.locator(".choice")).to_contain_text("broke off")
    await expect(page.locator(GHOST)).to_have_count(0)


async def test_a_server_that_is_down_and_comes_back(context: BrowserContext, app: Any) -> None:
    with serving(app) as url:
        watched = await WatchedPage.open(context, url)
    page = watched.page
    await page.click("#run")
    await expect(page.locator("#problem")).to_contain_text("The server is down")
    await expect(page.locator("#server")).to_contain_text("Server down")
    with serving(app, port=int(url.rpartition(":")[2])):
        await expect(page.locator("#server")).to_have_attribute("data-state", "ready")
        await expect(page.locator("#problem")).to_be_hidden()


async def test_a_link_opens_as_it_was_shared_without_the_key(
    context: BrowserContext, watched: WatchedPage, fake_backend: FakeBackend
) -> None:
    page = watched.page
    await page.uncheck("#as-you-type")
    await page.fill("#key", "sk-secret")
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
    assert await other.page.input_value("#key") == ""
    assert fake_backend.requests == []  # a link runs nothing by itself
    await other.page.click("#run")
    await expect(other.page.locator(".choice")).to_contain_text("ended")
    assert fake_backend.requests[0].params.temperature == 0.7
    assert fake_backend.requests[0].stop == ("\n\n",)
    assert "{<fim_suffix>}" in fake_backend.tokenizer.decode(fake_backend.requests[0].prompts[0], skip_special=False)
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
        text = await page.locator("#snippet").inner_text()
        result = await asyncio.to_thread(subprocess.run, [*command, text], capture_output=True, text=True, timeout=120)
        assert "def größe(a, b):" in result.stdout, (kind, result)
        assert "return" not in result.stdout
        assert len(fake_backend.requests) == number + 1
    first, *others = fake_backend.requests
    assert all((other.prompts, other.params) == (first.prompts, first.params) for other in others)
    assert "it's = 'größe \\n<fim_suffix>'" in fake_backend.tokenizer.decode(first.prompts[0], skip_special=False)


async def test_code_to_copy_holds_no_key(page: Page) -> None:
    await page.fill("#key", "sk-secret")
    await page.click("#view-request-tab")
    await expect(page.locator("#snippet")).to_contain_text("STARCODER_API_KEY")
    for kind in await page.locator("#snippet-kind option").evaluate_all("all => all.map(one => one.value)"):
        await page.select_option("#snippet-kind", kind)
        text = await page.locator("#snippet").inner_text()
        assert "sk-secret" not in text
        assert re.search(r"127\.0\.0\.1:\d+", text)


async def test_dark_and_light(page: Page) -> None:
    async def ground() -> str:
        return str(await page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = await ground()
    await page.emulate_media(color_scheme="dark")
    dark = await ground()
    assert dark != light
    await page.click("#theme")  # from the system's dark to light, and kept
    assert await ground() == light
    await page.reload()
    assert await ground() == light


async def test_axe_finds_no_barrier(page: Page) -> None:
    """axe-core's rules, those of WCAG 2 A and AA among them, on every view; in the dark, those of contrast."""
    await page.evaluate(AXE_FILE_PATH.read_text())

    async def check(place: str) -> None:
        for scheme, rules in (("light", "{}"), ("dark", "{runOnly: ['color-contrast']}")):
            await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            found = await page.evaluate(f"axe.run({rules})")
            problems = [(v["id"], [node["html"][:120] for node in v["nodes"]]) for v in found["violations"]]
            assert problems == [], (place, scheme)

    await page.fill("[name=n]", "2")
    await page.click("#add-file")
    await page.click("#run")
    await expect(page.locator(".choice").nth(1)).to_contain_text("ended")
    await check("output")
    await page.click("#view-prompt-tab")
    await expect(page.locator("#prompt .special").first).to_be_visible()
    await check("exact prompt")
    await page.click("#view-request-tab")
    await check("request")
    await page.click("#task-refactor")
    await page.fill("#instruction", "Rename it")
    await page.keyboard.press("Enter")
    await expect(page.locator(".diff")).to_be_visible()
    await check("refactor")


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
        await page.evaluate(AXE_FILE_PATH.read_text())
        assert [violation["id"] for violation in (await page.evaluate("axe.run()"))["violations"]] == []
        await page.click("nav a[href=terms]")
        await expect(page.locator("h1")).to_have_text("Use restrictions")
        assert watched.complaints == []
        assert watched.outside == []
