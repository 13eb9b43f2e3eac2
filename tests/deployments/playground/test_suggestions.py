"""Suggestions as one of several: sorted, merged, cycled, typed ahead, tapped; and answers without text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.support.axe import axe
from tests.support.browser import PATIENCE_MS, WatchedPage, document, write
from tests.support.fake_backend import ANSWER, FakeBackend

pytestmark = pytest.mark.asyncio(loop_scope="session")
expect.set_options(timeout=PATIENCE_MS)

GHOST = ".cm-ghost"
FINGER = 44  # CSS pixels


async def answer_with(page: Page, *choices: tuple[str, float]) -> None:
    """The server's next completions: texts of one token, and its log-probability."""
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    events: list[dict[str, Any]] = []
    for index, (text, logprob) in enumerate(choices):
        logprobs = {
            "tokens": [text],
            "token_logprobs": [logprob],
            "top_logprobs": [{text: logprob}],
            "text_offset": [0],
        }
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": "stop"}
        events.append(head | {"choices": [choice]})
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    await page.route("**/v1/completions", lambda route: route.fulfill(body=stream, content_type="text/event-stream"))


async def test_choices_are_sorted_merged_and_cycled(page: Page) -> None:
    await page.uncheck("#as-you-type")
    await write(page, "x = ")
    await page.fill("[name=n]", "4")
    await answer_with(page, ("two", -2), ("one", -0.5), ("two", -2), (" ", -9))
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".choice pre")).to_have_text(["one", "two", " "], use_inner_text=False)
    await expect(page.locator(".choice header")).to_contain_text(["Choice 1", "Choice 22 times", "Choice 3"])
    await expect(page.locator(".choice[aria-current] pre")).to_have_text("two")
    await expect(page.locator("#suggestion-place")).to_have_text("2 of 2")  # white space is nothing to suggest
    await page.locator(".cm-content").focus()
    await page.keyboard.press("Alt+]")
    await expect(page.locator(GHOST)).to_have_text("one")
    await expect(page.locator(".choice[aria-current] pre")).to_have_text("one")
    await expect(page.locator("#announcer")).to_contain_text("Suggestion 1 of 2: one.")
    await page.keyboard.press("Alt+[")
    await expect(page.locator(GHOST)).to_have_text("two")
    await page.get_by_role("button", name="Next suggestion").click()
    await page.keyboard.press("Tab")
    assert await document(page) == "x = one"
    await expect(page.locator("#suggestion")).to_be_hidden()


async def test_a_suggestion_that_came_alone_gets_company(page: Page, fake_backend: FakeBackend) -> None:
    await write(page, "x = ")
    await expect(page.locator(GHOST)).to_be_visible()  # whole or not
    await page.keyboard.press("Alt+]")
    await expect(page.locator("#suggestion-place")).to_contain_text("of 4")
    assert [request.n for request in fake_backend.requests] == [1, 4]
    await expect(page.locator(GHOST)).not_to_have_text(ANSWER)
    await page.keyboard.press("Alt+[")
    await expect(page.locator(GHOST)).to_have_text(ANSWER)
    assert await document(page) == "x = "


async def test_brackets_close_unless_the_suggestion_goes_on(page: Page) -> None:
    await write(page, "x = ")
    await expect(page.locator(GHOST)).to_have_text(ANSWER)
    await page.keyboard.type("def größe(")
    assert await document(page) == "x = def größe("
    await expect(page.locator(GHOST)).to_have_text(ANSWER.removeprefix("def größe("))
    await page.uncheck("#as-you-type")
    await page.locator(".cm-content").focus()
    await page.keyboard.press("Control+a")
    await page.keyboard.press("Backspace")
    await page.keyboard.type("f(a")
    assert await document(page) == "f(a)"
    await page.keyboard.press("Shift+ArrowLeft")
    await page.keyboard.type("[")
    assert await document(page) == "f([a])"


async def test_an_answer_without_text_looks_like_a_refused_one(page: Page) -> None:
    await answer_with(page, ("", -1))
    await page.click("#run")
    await expect(page.locator("#problem")).to_contain_text("The model adds nothing here.")
    await expect(page.locator(".choice")).to_have_count(0)
    await page.unroute("**/v1/completions")
    await page.uncheck("#as-you-type")
    await write(page, "word " * 2000)
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#problem")).to_contain_text("Too long")
    await expect(page.locator(".choice")).to_have_count(0)
    await page.click("#problem-action")
    await expect(page.locator("#problem")).to_be_hidden()


async def test_a_telephone(browser: Browser, url: str) -> None:
    context = await browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, reduced_motion="reduce")
    watched = await WatchedPage.open(context, url)
    page = watched.page
    await page.evaluate("for (const group of document.querySelectorAll('details')) group.open = true")
    await write(page, "x = ")
    await expect(page.locator(GHOST)).to_have_text(ANSWER)
    boxes = await page.locator("button, select, input, summary").evaluate_all(
        "all => all.filter(one => one.checkVisibility({visibilityProperty: true}) && one.type !== 'checkbox')"
        ".map(one => [one.outerHTML.slice(0, 80), one.getBoundingClientRect().height])"
    )
    assert len(boxes) > 20
    assert [name for name, height in boxes if height < FINGER] == []
    assert await page.evaluate("document.documentElement.scrollWidth") == 390
    await axe(page, "a telephone")
    first_line = await page.locator(GHOST).evaluate("ghost => ghost.getClientRects()[0].toJSON()")
    await page.touchscreen.tap(first_line["x"] + 20, first_line["y"] + 8)
    await expect(page.locator(GHOST)).to_have_count(0)
    assert await document(page) == f"x = {ANSWER}"
    assert (watched.complaints, watched.outside) == ([], [])
    await context.close()
