"""Takes the README's pictures of the playground, from a running server with the embedded model.

starcoder serve &
python -m tests.support.screenshots http://127.0.0.1:8000

With `--attribution` that of docs/attribution.md, of one that has an index of Python's standard library.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from PIL import Image
from playwright.async_api import Browser, Page, expect

from tests.support.browser import PATIENCE_MS, WatchedPage, chromium, write

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MAX_BYTES = 150_000
MEMORISED = '#!/usr/bin/env python\n# Licensed under the Apache License, Version 2.0 (the "License");\n'


async def take(url: str, directory: Path) -> list[Path]:
    """Write `playground-light.png` and `playground-dark.png`; the paths."""
    paths = [directory / "playground-light.png", directory / "playground-dark.png"]
    async with chromium() as browser:
        await _choices(await _open(browser, url, "light"), paths[0])
        await _exact_prompt(await _open(browser, url, "dark"), paths[1])
    for path in paths:
        shrink(path)
    return paths


async def take_attribution(url: str, directory: Path) -> list[Path]:
    """Write `attribution.png`: a licence that the model knows by heart, and where it has it from."""
    path = directory / "attribution.png"
    async with chromium() as browser:
        page = await _open(browser, url, "light")
        await page.set_viewport_size({"width": 1700, "height": 640})  # wide: the answer stands beside the editor
        await page.uncheck("#as-you-type")
        await write(page, MEMORISED)
        await page.select_option("[name=completion_mode]", "raw")
        await page.fill("[name=max_tokens]", "96")
        await page.fill("[name=temperature]", "0")
        await _complete(page)
        await expect(page.locator(".sources").first).to_be_visible(timeout=PATIENCE_MS)
        await page.keyboard.press("Escape")
        await page.screenshot(path=path)
    shrink(path)
    return [path]


def shrink(path: Path) -> None:
    """A screen has few colours: 256 of them look the same and take half the bytes."""
    Image.open(path).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{path} has {size} bytes, over {MAX_BYTES}")


async def _open(browser: Browser, url: str, scheme: str) -> Page:
    context = await browser.new_context(viewport={"width": 1280, "height": 840}, reduced_motion="reduce")
    page = (await WatchedPage.open(context, url)).page
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    return page


async def _complete(page: Page) -> None:
    await page.click("#run")
    await expect(page.locator("#figure-generated")).not_to_have_text("–", timeout=PATIENCE_MS)
    await expect(page.locator("#stop")).to_be_hidden(timeout=PATIENCE_MS)


async def _choices(page: Page, path: Path) -> None:
    """Ghost text, three choices, and what else one token could have been."""
    await page.select_option("#example", label="Python: the middle of a loop")
    await page.fill("[name=n]", "3")
    await page.fill("[name=temperature]", "1.2")
    await page.fill("[name=max_tokens]", "32")
    await page.get_by_text("Drawing tokens").click()
    await page.fill("[name=seed]", "7")
    await page.get_by_text("Drawing tokens").click()
    await _complete(page)
    tokens = page.locator(".choice").first.locator(".token")
    await tokens.nth(min(2, await tokens.count() - 1)).hover()
    await page.screenshot(path=path)


async def _exact_prompt(page: Page, path: Path) -> None:
    """The prompt with repository context, its special tokens coloured."""
    await page.select_option("#example", label="Python: other files as context")
    await page.fill("[name=max_tokens]", "12")
    await _complete(page)
    await page.click("#view-prompt-tab")
    await expect(page.locator("#prompt .special").first).to_be_visible(timeout=PATIENCE_MS)
    await page.screenshot(path=path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="the running server")
    parser.add_argument("--directory", type=Path, default=IMAGES)
    parser.add_argument("--attribution", action="store_true")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    taken = take_attribution if arguments.attribution else take
    for path in asyncio.run(taken(arguments.url.rstrip("/"), arguments.directory)):
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
