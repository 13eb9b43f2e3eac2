"""The pages: the playground `/`, `/teams`, the served model's card `/model-card`, and the use restrictions `/terms`."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from fastapi import APIRouter

from deployments.api.common.context import ApiContext
from deployments.api.openai.completions import CompletionRequest
from deployments.api.pages.markdown_page import to_page
from deployments.api.pages.static_content import StaticContent
from deployments.clients.client import ANSWER_SHARE, NO_KEY
from deployments.clients.registry import clients
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


def configurations() -> bytes:
    """A script with the editors' configurations, which the page fills in."""
    known = {
        name: {
            "name": client.name,
            "file": client.file.replace("`", ""),
            "note": client.note.replace("`", ""),
            "configuration": client.configuration,
        }
        for name, client in clients().items()
        if client.file is not None
    }
    values = {"CLIENTS": known, "NO_KEY": NO_KEY, "ANSWER_SHARE": ANSWER_SHARE}
    return b"".join(
        b"export const %s = %s;\n" % (name.encode(), msgspec.json.encode(value)) for name, value in values.items()
    )


def request_fields() -> bytes:
    """A script with what the API declares of each field of a completion: what it does, its range and its default."""
    fields = {name: _declared(schema) for name, schema in CompletionRequest.model_json_schema()["properties"].items()}
    return b"export const FIELDS = " + msgspec.json.encode(fields) + b";\n"


def _declared(schema: dict[str, Any]) -> dict[str, object]:
    """Of a field that may be null, the range is that of its values."""
    ranged = next((kind for kind in schema.get("anyOf", ()) if "maximum" in kind), schema)
    said = {
        "description": schema["description"],
        "least": ranged.get("minimum"),
        "most": ranged.get("maximum"),
        "default": schema.get("default"),
    }
    return {key: value for key, value in said.items() if value is not None}


def resources(api: ApiContext) -> dict[str, StaticContent]:
    """Everything the playground is made of, by path."""
    return {**of_all_servers(), "/model-card": StaticContent(to_page("Model card", api.model_card or _NO_CARD), _HTML)}


@cache
def of_all_servers() -> dict[str, StaticContent]:
    """Once for a process: what is read, digested and compressed here is no server's own."""
    found = {
        f"/playground/{path.name}": StaticContent(path.read_bytes(), _MEDIA_TYPES[path.suffix])
        for path in sorted(STATIC.iterdir())
        if path.suffix != ".html"
    }
    made = {
        "stop-rules.js": stop_rule_words(),
        "clients.js": configurations(),
        "request-fields.js": request_fields(),
    }
    found.update({f"/playground/{name}": StaticContent(text, _MEDIA_TYPES[".js"]) for name, text in made.items()})
    found.update({path: StaticContent((STATIC / name).read_bytes(), _HTML) for path, name in _WHOLE.items()})
    found["/terms"] = StaticContent(to_page("Use restrictions", TERMS.read_text(encoding="utf-8")), _HTML)
    return found


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    for path, content in resources(api).items():
        router.add_api_route(path, content.respond, methods=["GET", "HEAD"])
    return router
