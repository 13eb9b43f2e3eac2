"""The pages: the playground `/`, `/teams`, the served model's card `/model-card`, and the use restrictions `/terms`."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter

from deployments.api.common.context import ApiContext
from deployments.api.pages.markdown_page import to_page
from deployments.api.pages.static_content import StaticContent
from deployments.playground import STATIC, TERMS
from deployments.stop_rules.registry import stop_rules

_MEDIA_TYPES = {  # not left to the machine's own tables, which differ
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_HTML = _MEDIA_TYPES[".html"]
_WHOLE = {"/": "index.html", "/teams": "teams.html"}
"""Pages that stand in a file, by path."""

_NO_CARD = """# Model card

The served checkpoint has no model card: there is no `README.md` in its directory. Ask whoever runs this server what
the model was trained on, under which licence it may be used, and what it is known to do badly.
"""


def stop_rule_words() -> bytes:
    """A script with what the playground says of each stop rule."""
    words = {rule.name: rule.word for rule in stop_rules().values()}
    return b"export const RULES = " + msgspec.json.encode(words) + b";\n"


def resources(api: ApiContext) -> dict[str, StaticContent]:
    """Everything the playground is made of, by path."""
    found = {
        f"/playground/{path.name}": StaticContent(path.read_bytes(), _MEDIA_TYPES[path.suffix])
        for path in sorted(STATIC.iterdir())
        if path.suffix != ".html"
    }
    found["/playground/stop-rules.js"] = StaticContent(stop_rule_words(), _MEDIA_TYPES[".js"])
    found.update({path: StaticContent((STATIC / name).read_bytes(), _HTML) for path, name in _WHOLE.items()})
    found["/model-card"] = StaticContent(to_page("Model card", api.model_card or _NO_CARD), _HTML)
    found["/terms"] = StaticContent(to_page("Use restrictions", TERMS.read_text(encoding="utf-8")), _HTML)
    return found


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    for path, content in resources(api).items():
        router.add_api_route(path, content.respond, methods=["GET", "HEAD"])
    return router
