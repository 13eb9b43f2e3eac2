"""axe-core's rules, those of WCAG 2 A and AA among them, on a page that a browser shows."""

from __future__ import annotations

from axe_playwright_python.base import AXE_FILE_PATH
from playwright.async_api import Page

_ONLY = "resultTypes: ['violations']"
"""axe describes no element that is as it should be, which takes it a third of its time."""

_OPTIONS = {"light": f"{{{_ONLY}}}", "dark": f"{{{_ONLY}, runOnly: ['color-contrast']}}"}
"""In the dark nothing else is different."""

_STILL = """() => document.getAnimations().every(one =>
  one.playState !== "running" || one.effect.getComputedTiming().iterations === Infinity)"""


async def axe(page: Page, place: str) -> None:
    """No rule is broken, in the light and in the dark. place: what is shown, for the message."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE_FILE_PATH.read_text())
    for scheme, options in _OPTIONS.items():
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        await page.wait_for_function(_STILL)  # on their way from one scheme to the other, colours are of neither
        violations = await page.evaluate(f"axe.run({options}).then(found => found.violations)")
        problems = [(v["id"], [node["html"][:160] for node in v["nodes"]]) for v in violations]
        assert problems == [], f"{place}, {scheme}: {problems}"
