"""Takes the picture of the page of teams for the documentation, from a server of its own with made-up usage.

python -m tests.support.teams_screenshots
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from playwright.async_api import expect

from deployments.teams.money import PER_DOLLAR
from deployments.teams.records import Budget
from model.text.tokenizer import Tokenizer
from tests.support.browser import PATIENCE_MS, chromium
from tests.support.identity_provider import identity_provider
from tests.support.screenshots import IMAGES, shrink
from tests.support.signed_in_app import Office, office
from tests.support.teams_page import key_of, sign_in, use
from tests.support.tokenizers import starcoder_rules


async def take(running: Office, path: Path) -> None:
    store = await running.store()
    try:
        search = await store.create_team("local", "search", budget=Budget(amount=60 * PER_DOLLAR))
        for name, days in (("nightly-evaluation", 26), ("laptop", 9)):
            key, _ = await key_of(running, store, search, name, "generate")
            await use(store, search, key, days)
    finally:
        await store.close()
    async with chromium() as browser:
        context = await browser.new_context(viewport={"width": 1280, "height": 840}, reduced_motion="reduce")
        page = await sign_in(context, running, "Ada Lovelace")
        await expect(page.locator("#view-usage .budget")).to_be_visible(timeout=PATIENCE_MS)
        await page.screenshot(path=path)
    shrink(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, default=IMAGES / "teams.png")
    arguments = parser.parse_args()
    with identity_provider() as provider, tempfile.TemporaryDirectory() as directory:
        provider.add("ada", "Ada Lovelace", "leads")
        with office(provider, Tokenizer(starcoder_rules()), Path(directory)) as running:
            asyncio.run(take(running, arguments.path))
    print(f"{arguments.path}: {arguments.path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
