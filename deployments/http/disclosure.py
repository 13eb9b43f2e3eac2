"""Answers that a model wrote say so, to programs too: by what, and where its card and its use restrictions are.

StarCoder's licence wants its restrictions passed on, and what it writes not published as a person's. `describedby` and
`terms-of-service` are registered link relations (RFC 8288, RFC 6903).
"""

from __future__ import annotations

from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http import request_record
from monitoring.version import package_version

GENERATED_BY = "x-generated-by"


class DisclosureMiddleware:
    """Adds `x-generated-by` and `link` to each answer for which an engine was asked."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_disclosed(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                record = request_record.current()
                if record is not None and record.completion_ids:
                    headers = MutableHeaders(scope=message)
                    headers[GENERATED_BY] = generated_by(record.model)
                    headers.append("link", links(scope["path"]))
            await send(message)

        await self.app(scope, receive, send_disclosed)


def generated_by(model: str | None) -> str:
    """As `user-agent` names a program. The model's name is percent-encoded where a header cannot have it."""
    program = f"starcoder-serve/{package_version()}"
    return program if model is None else f"{program} (model {quote(model, safe='/:@+')})"


def links(path: str) -> str:
    """From the path that was asked for: a proxy may have this server below a path of its own."""
    root = "../" * (path.count("/") - 1)
    return f'<{root}model-card>; rel="describedby", <{root}terms>; rel="terms-of-service"'
