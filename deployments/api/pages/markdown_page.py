"""Markdown that others wrote, as a page: no HTML of theirs, no scripts, no images from elsewhere."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

# A model card on the Hugging Face hub opens with metadata in YAML.
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="{root}playground/icon.svg">
<link rel="stylesheet" href="{root}playground/theme.css">
<link rel="stylesheet" href="{root}playground/document.css">
<script type="module" src="{root}playground/theme.js"></script>
</head>
<body>
<nav aria-label="Site"><a href="{home}">Playground</a> <a href="{root}model-card">Model card</a> \
<a href="{root}terms">Use restrictions</a> <a href="{root}docs">API</a></nav>
<main>
{body}</main>
</body>
</html>
"""


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.add_render_rule("image", _image_as_text)
    parser.add_render_rule("link_open", _link_without_referrer)
    parser.add_render_rule("th_open", _cell_without_style)
    parser.add_render_rule("td_open", _cell_without_style)
    return parser


def _image_as_text(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return f"<em>{html.escape(tokens[index].content or 'image')}</em>"


def _link_without_referrer(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    return renderer.renderToken(tokens, index, options, env)


def _cell_without_style(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    # The library aligns columns with inline styles, which the page's policy forbids.
    style = tokens[index].attrs.pop("style", None)
    if style is not None:
        tokens[index].attrSet("class", str(style).replace("text-align:", ""))
    return renderer.renderToken(tokens, index, options, env)


def to_page(title: str, text: str, root: str = "") -> bytes:
    """A whole page of `text`; its YAML front matter is shown as it is, at the end. root: from its address to `/`."""
    front = _FRONT_MATTER.match(text)
    body = _parser().render(text[front.end() :] if front else text)
    # A wide table scrolls by itself, with the keyboard too, and not the page with it.
    body = body.replace("<table>", '<div class="wide" tabindex="0" role="region" aria-label="Table"><table>')
    body = body.replace("</table>", "</table></div>").replace("<pre>", '<pre tabindex="0">')
    if front:
        body += f'<h2>Metadata</h2>\n<pre tabindex="0"><code>{html.escape(front.group(1))}</code></pre>\n'
    return _PAGE.format(title=html.escape(title), body=body, root=root, home=root or "./").encode()
