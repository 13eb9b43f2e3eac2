"""What the page keeps: the text over a reload, what was asked, and what an example replaced. And its parameters."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from deployments.api.openai.completions import CompletionRequest
from tests.support.browser import PATIENCE_MS, document, write
from tests.support.fake_backend import ANSWER, FakeBackend

pytestmark = pytest.mark.asyncio(loop_scope="session")
expect.set_options(timeout=PATIENCE_MS)


async def test_text_and_history_outlive_a_reload(page: Page) -> None:
    await page.uncheck("#as-you-type")
    await write(page, "größe = ")
    await page.fill("[name=temperature]", "0.7")
    await page.click("#run")
    await expect(page.locator(".choice")).to_contain_text("ended")
    await page.route("**/version", lambda route: route.fulfill(json={"commits": "untrained"}))
    await page.reload()
    await page.wait_for_selector("#server[data-state=ready]")
    assert await document(page) == "größe = "
    assert await page.input_value("[name=temperature]") == "0.7"
    await expect(page.locator(".cm-content")).to_be_focused()
    await page.keyboard.type("1")
    await page.click("#view-past-tab")
    await expect(page.locator("#past pre")).to_have_text([ANSWER], use_inner_text=False)
    await page.get_by_role("button", name="Bring back: größe =").click()
    assert await document(page) == "größe = "
    await page.click("#undo")
    assert await document(page) == "größe = 1"
    await page.click("#view-past-tab")
    await page.click("#forget-past")
    await expect(page.locator("#no-past")).to_be_visible()
    assert "starcoder-history" not in await page.evaluate("Object.keys(sessionStorage)")
    await page.click("#task-refactor")
    await expect(page.locator("#ability")).to_contain_text("has never seen a commit")


async def test_an_example_can_be_taken_back(page: Page) -> None:
    await page.uncheck("#as-you-type")
    await page.select_option("#language", "go")
    await write(page, "func größe")
    for undo in ("Control+z", None):
        await page.select_option("#example", label="Python: something to refactor (for a real StarCoder)")
        await expect(page.locator("#task-refactor")).to_have_attribute("aria-selected", "true")
        await expect(page.locator(".cm-content")).to_be_focused()
        if undo:
            await page.keyboard.press(undo)
        else:
            await page.click("#undo")
        assert await document(page) == "func größe"
        assert await page.input_value("#language") == "go"
        await expect(page.locator("#task-complete")).to_have_attribute("aria-selected", "true")
        await expect(page.locator("#undo")).to_be_hidden()


async def test_every_parameter_is_explained_in_the_words_of_the_api(page: Page, fake_backend: FakeBackend) -> None:
    tips = await page.locator("#parameters .parameter").evaluate_all(
        """rows => rows.map(row => {
            const control = row.querySelector('[name]');
            const tip = document.getElementById(control.getAttribute('aria-describedby'));
            return [tip.querySelector('code').textContent, tip.textContent, control.labels[0].textContent];
        })"""
    )
    assert len(tips) > 12
    assert {field for field, _, _ in tips} <= CompletionRequest.model_fields.keys()
    explained = {field: text for field, text, _ in tips}
    for name in ("temperature", "frequency_penalty", "presence_penalty", "repetition_penalty", "top_k", "seed"):
        assert (CompletionRequest.model_fields[name].description or "?") in explained[name]
    tip = page.locator("#tip-temperature")
    await expect(tip).to_be_hidden()
    await page.get_by_text("Temperature", exact=True).hover()
    await expect(tip).to_be_visible()
    await page.mouse.move(0, 0)
    await page.locator("[name=temperature]").focus()
    await expect(tip).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(tip).to_be_hidden()


async def test_sliders_and_boxes_say_the_same(page: Page, fake_backend: FakeBackend) -> None:
    await page.get_by_text("Repeating itself").click()
    await page.get_by_label("Frequency penalty, as a slider").fill("1.5")
    assert await page.input_value("[name=frequency_penalty]") == "1.5"
    await page.fill("[name=temperature]", "1.25")
    assert await page.get_by_label("Temperature, as a slider").input_value() == "1.25"
    await page.click("#run")
    await expect(page.locator(".choice")).to_contain_text("ended")
    params = fake_backend.requests[0].params
    assert (params.frequency_penalty, params.presence_penalty, params.temperature) == (1.5, 0, 1.25)
    asked = len(fake_backend.requests)
    await page.fill("[name=frequency_penalty]", "7")
    await page.get_by_text("Repeating itself").click()
    await page.click("#run")  # what is wrong is shown, not sent
    await expect(page.locator("[name=frequency_penalty]")).to_be_visible()
    assert len(fake_backend.requests) == asked
