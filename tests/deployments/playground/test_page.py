"""The playground as people use it: in a real browser, over HTTP, with a backend that always gives the same answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, expect

from deployments.command.ports import free_port
from deployments.errors import EngineUnavailableError, OverloadedError
from tests.support.browser import PATIENCE_MS, WatchedPage, document, write
from tests.support.fake_backend import ANSWER, FakeBackend
from tests.support.http_server import serving
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="session")
expect.set_options(timeout=PATIENCE_MS)


class Gate:
    """Holds the backend's tokens back; the server's thread looks at it."""

    def __init__(self) -> None:
        self.is_open = False

    async def wait(self) -> None:
        while not self.is_open:  # noqa: ASYNC110 (opened by another thread)
            await asyncio.sleep(0.005)


async def until(condition: Callable[[], object], message: str) -> None:
    await asyncio.to_thread(wait_until, condition, message, PATIENCE_MS / 1000)


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
    async with page.expect_request("**/v1/completions") as typing:
        await page.keyboard.type(" =")
    await expect(page.locator(GHOST)).to_have_text(ANSWER)
    assert await document(page) == "x ="  # not in the document yet
    await expect(page.locator("#announcer")).to_contain_text("Tab accepts")
    await page.uncheck("#as-you-type")
    await page.locator(".cm-content").focus()
    async with page.expect_request("**/v1/completions") as by_hand:
        await page.keyboard.press("Control+Enter")
    # Only what is typed belongs to a session, whose newer requests replace older ones.
    assert len((await typing.value).headers["x-session-id"]) > 16
    assert "x-session-id" not in (await by_hand.value).headers
    await expect(page.locator("#stop")).to_be_hidden()
    await expect(page.locator(GHOST)).to_have_text(ANSWER)
    await page.keyboard.press("Tab")
    assert await document(page) == f"x ={ANSWER}"
    await expect(page.locator(GHOST)).to_have_count(0)
    typed = fake_backend.requests[0]
    assert fake_backend.tokenizer.decode(typed.prompts[0]).endswith("x =")


async def test_white_space_alone_is_no_suggestion_and_tab_indents(
    page: Page, fake_backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_backend, "tokens", lambda number=0: fake_backend.tokenizer.encode("\n    "))
    async with page.expect_response("**/v1/completions") as answer:
        await write(page, "x = 1")
    await (await answer.value).finished()
    await expect(page.locator(GHOST)).to_have_count(0)
    await page.keyboard.press("Tab")
    assert await document(page) == "x = 1    "
    fim = fake_backend.tokenizer.fim
    assert fim is not None
    assert fake_backend.requests[0].prompts[0][:2] == [fim.prefix, fim.suffix], "an infill, with nothing behind it"


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
    assert "<fim_suffix>b<fim_middle>" in prompt
    assert prompt.endswith("a = ")
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


async def test_what_ended_a_completion(page: Page) -> None:
    """As the rules for code report it: a stream written by hand, since this backend has none of them."""
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    events: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "text": "x = 1", "logprobs": None, "finish_reason": None}]},
        {"choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop", "ended_by": "line"}]},
        {
            "choices": [],
            "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 0}},
        },
    ]
    stream = "".join(f"data: {json.dumps(head | event)}\n\n" for event in events) + "data: [DONE]\n\n"
    await page.route("**/v1/completions", lambda route: route.fulfill(body=stream, content_type="text/event-stream"))
    await page.click("#run")
    await expect(page.locator(".choice footer")).to_have_text("ended with the line")
    await expect(page.locator(GHOST)).to_have_text("x = 1")
    await expect(page.locator("#figure-left")).to_have_text("243 of 256")
    await expect(page.locator("#figure-speed")).to_have_text("–")  # four tokens tell nothing


async def test_the_exact_prompt_with_its_special_tokens(page: Page) -> None:
    await write(page, "größe = '<fim_middle>'")
    await page.get_by_text("File and repository").click()
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
            *("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<reponame>", "<filename>"),
        ]
    )
    await expect(page.locator("#prompt")).to_contain_text("größe = '")  # what was typed is text
    await expect(page.locator("#prompt-summary")).to_contain_text("8 of them special")


async def test_refactor_shows_a_diff_that_can_be_applied(page: Page, fake_backend: FakeBackend) -> None:
    await page.click("#task-refactor")
    await expect(page.locator("#ability")).to_contain_text("knows the format of commits")
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
    port = free_port()
    with serving(app, port) as url:
        watched = await WatchedPage.open(context, url)
    page = watched.page
    await page.click("#run")
    await expect(page.locator("#problem")).to_contain_text("The server is down")
    await expect(page.locator("#server")).to_contain_text("Server down")
    with serving(app, port):
        await expect(page.locator("#server")).to_have_attribute("data-state", "ready")
        await expect(page.locator("#problem")).to_be_hidden()


@pytest.mark.parametrize("width", [390, 800, 1280, 1600, 1700, 1920])
async def test_what_is_chosen_can_be_read_at_every_width(page: Page, width: int) -> None:
    await page.set_viewport_size({"width": width, "height": 640})
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    rooms = await page.locator(".toolbar select, aside select").evaluate_all(
        """all => all.filter(one => one.checkVisibility()).map(one => {
            const pen = document.createElement('canvas').getContext('2d');
            pen.font = getComputedStyle(one).font;
            return [one.id || one.name, one.clientWidth, pen.measureText(one.selectedOptions[0].text).width];
        })"""
    )
    assert [name for name, *_ in rooms][:2] == ["language", "example"]
    assert [name for name, room, text in rooms if room < text] == []
