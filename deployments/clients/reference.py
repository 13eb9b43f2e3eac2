"""The configurations in docs/clients.md, made from the files in `known/`; the rest of the page is written by hand."""

from __future__ import annotations

from itertools import groupby

from deployments.clients.client import Client, Server
from deployments.clients.registry import clients
from model.checkpoint.hub import EMBEDDED

BEGIN = "<!-- made from deployments/clients/known/ by `make boards`; edit that -->"
END = "<!-- end of the configurations -->"

SERVER = Server("http://127.0.0.1:8000", EMBEDDED, window=2048)
"""The one that the page speaks of."""


def reference(page: str) -> str:
    """The page with today's configurations. Raises ValueError where it has no place for them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("docs/clients.md has lost the comments around the configurations")
    sections = groupby(clients().values(), key=lambda client: client.section)
    made = "\n".join(f"## {section}\n\n" + "\n".join(map(_chapter, members)) for section, members in sections)
    return f"{before}{BEGIN}\n\n{made}\n{END}{after}"


def _chapter(client: Client) -> str:
    dialects = ", ".join(client.dialects)
    where = f"Dialects: {dialects}." if client.file is None else f"In {client.file}; dialects: {dialects}."
    said = f"{where}\n{client.note}".rstrip()
    return f"### {client.name}\n\n{said}\n\n```{client.language}\n{client.configured(SERVER)}```\n"
