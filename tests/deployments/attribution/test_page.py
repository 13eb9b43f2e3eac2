"""The playground says whose code a completion repeats."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, expect

from deployments.attribution.backend import Attributor
from deployments.ingress import create_app
from model.text.tokenizer import Tokenizer
from tests.deployments.attribution.test_answers import COPIED, Repeating
from tests.deployments.attribution.test_search import bare
from tests.support.axe import axe
from tests.support.browser import PATIENCE_MS, WatchedPage, write
from tests.support.http_server import serving

pytestmark = pytest.mark.asyncio(loop_scope="session")
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture
def attributing(tokenizer: Tokenizer, attributor: Attributor) -> Iterator[str]:
    backend = Repeating(tokenizer, window=4096)
    with serving(create_app(backend=backend, tokenizer=tokenizer, attributor=attributor)) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="session")
async def watched(context: BrowserContext, attributing: str) -> AsyncIterator[WatchedPage]:
    watched = await WatchedPage.open(context, attributing)
    yield watched
    await watched.page.close()
    assert watched.complaints == []


@pytest.mark.parametrize("colours", [True, False])
async def test_the_part_is_marked_and_its_source_is_named(watched: WatchedPage, colours: bool) -> None:
    page = watched.page
    await page.uncheck("#as-you-type")
    await write(page, "x = 1")
    await page.fill("[name=max_tokens]", "1000")
    await page.select_option("[name=completion_mode]", "raw")
    await page.set_checked("[name=logprobs]", colours)
    await page.click("#run")
    source = page.locator(".choice .sources li")
    await expect(source).to_have_text(
        f"Characters 5 to {len(COPIED.rstrip())} are also in library/inner/tagged.c:12 (GPL-2.0-only)"
    )
    marked = await page.locator(".choice .copied").all_text_contents()
    assert bare("".join(marked)) == bare(COPIED)
    assert (len(marked) > 1) is colours
    await axe(page, f"sources, colours: {colours}")
